#include <stdio.h>

#include "cli.h"
#include "trimtab/spec.h"

/* Taken in by every job command, so that a batch script can pass one list of options to both. */
static const cli_option options[] = {
    {"ranks", "N", "the most ranks there can be"},
    {"set", "GROUP.KEY=VALUE", "override a key of the job file (repeatable)"},
    {"resume", "[latest|previous|auto]", "taken as train takes it; changes nothing here"},
    {"quiet", NULL, "likewise"},
    {NULL, NULL, NULL}};

typedef struct grid {
    int stages, replicas;
} grid;

/* Sequences of a step that replicas can share out: of the member with the fewest. */
static tt_status find_batch(const tt_job *job, const tt_cohort *cohort, int *out, tt_error *err) {
    *out = job->train.batch_size;
    for (int i = 0; i < tt_cohort_n(cohort); i++) {
        tt_job member;
        TT_TRY(tt_cohort_member(cohort, job, i, &member, err));
        if (i == 0 || member.train.batch_size < *out) *out = member.train.batch_size;
    }
    return TT_OK;
}

static int least(int a, int b) {
    return a < b ? a : b;
}

/* Uses the most ranks that a grid can; of two that use as many, the one of more stages, which
 * shares out the weights. What the job fixes stays, where it can: stages before replicas, since a
 * stage's weights must fit into memory while a replica less only takes longer. */
static grid choose(const grid *wanted, int n_ranks, int n_layers, int batch) {
    grid best = {0, 0};
    int most = least(n_ranks, n_layers), fewest = 1;
    if (wanted->stages) most = fewest = least(wanted->stages, n_ranks);
    for (int stages = most; stages >= fewest; stages--) {
        int replicas = least(n_ranks / stages, batch);
        if (wanted->replicas) replicas = least(replicas, wanted->replicas);
        if (stages * replicas > best.stages * best.replicas) best = (grid){stages, replicas};
    }
    return best;
}

/* Replicas that the job fixes and that leave a rank each are kept before stages that are derived.
 */
static grid choose_grid(const tt_job *job, int n_ranks, int n_layers, int batch) {
    grid wanted = {job->parallel.stages, job->parallel.replicas};
    bool derives = wanted.stages == 0 && wanted.replicas > 0 && wanted.replicas <= n_ranks;
    if (derives) wanted.stages = least(n_ranks / wanted.replicas, n_layers);
    return choose(&wanted, n_ranks, n_layers, batch);
}

static void print(const tt_job *job, const grid *chosen, int n_ranks) {
    int stages = job->parallel.stages, replicas = job->parallel.replicas;
    int n = chosen->stages * chosen->replicas;
    printf("ranks %d\nstages %d\nreplicas %d\n", n, chosen->stages, chosen->replicas);
    if ((stages && stages != chosen->stages) || (replicas && replicas != chosen->replicas))
        printf("note the job's %d stages x %d replicas (0: derived) do not go into %d ranks\n",
               stages, replicas, n_ranks);
    else if (n < n_ranks)
        printf("note %d of %d ranks have nothing to do\n", n_ranks - n, n_ranks);
    printf("run_dir %s\n", job->run.dir);
}

static tt_status run(const cli *c, tt_error *err) {
    cli_given given;
    const char *sets[CLI_MAX_WORDS];
    int n_sets, batch = 0;
    long long n_ranks;
    TT_TRY(cli_parse(c, options, &given, err));
    TT_TRY(cli_int(&given, "ranks", 1, 1 << 20, 1, &n_ranks, err));
    TT_TRY(cli_read_sets(&given, sets, &n_sets, err));
    if (given.n_words != 1)
        return tt_fail(err, TT_ERR_USAGE, "got %d words, expected one job file", given.n_words);
    if (!cli_is_first()) return TT_OK;
    tt_job job;
    tt_cohort *cohort;
    tt_spec spec;
    TT_TRY(tt_cohort_read(given.words[0], sets, n_sets, true, &job, &cohort, err));
    tt_status status = find_batch(&job, cohort, &batch, err);
    tt_cohort_destroy(cohort);
    if (status == TT_OK) status = tt_spec_read(job.model.path, &spec, err);
    if (status != TT_OK) return status;
    grid chosen = choose_grid(&job, (int)n_ranks, spec.n_layers, batch);
    print(&job, &chosen, (int)n_ranks);
    return TT_OK;
}

const cli_command cli_layout = {
    .name = "layout",
    .summary = "the layout a job takes on so many ranks, for batch scripts",
    .arguments = "JOB.cfg --ranks N",
    .words = "JOB.cfg",
    .description =
        "Prints how many of N ranks the job can use and as what, a line each: ranks, stages,\n"
        "replicas, a note where that is not what the job says or not all ranks, and its run\n"
        "directory. What the job fixes (parallel.stages, parallel.replicas) is kept where it goes\n"
        "into N ranks; where it does not, replicas give way before stages. Reads the job and the\n"
        "model's config.json, measures nothing; trimtab plan looks for the fastest. One process.\n",
    .options = options,
    .run = run};
