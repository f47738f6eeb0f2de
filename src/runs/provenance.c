#include "trimtab/provenance.h"

#include <inttypes.h>
#include <jansson.h>
#include <stdlib.h>
#include <string.h>
#include <time.h>

#include "trimtab/file.h"
#include "trimtab/inside.h"

const char *tt_provenance_version(void) {
    return TT_VERSION;
}

const char *tt_provenance_git_revision(void) {
    return TT_GIT_REVISION;
}

static tt_status write_job(const tt_job *job, const tt_cohort *cohort, const tt_rundir *rundir,
                           tt_error *err) {
    char path[TT_PATH_BYTES], *text = NULL;
    size_t n = 0;
    TT_TRY(tt_file_join(path, sizeof path, rundir->path, "job.cfg", err));
    FILE *stream = open_memstream(&text, &n);
    if (!stream) return tt_fail(err, TT_ERR_MEMORY, "no memory to print the job");
    tt_job_print(job, stream);
    tt_cohort_print(cohort, stream);
    tt_status status = fclose(stream) == 0 ? tt_inside_write(path, rundir->n_root, text, n, err)
                                           : tt_fail(err, TT_ERR_MEMORY, "no memory for a job");
    free(text);
    return status;
}

static json_t *list_hosts(const tt_world *world, const char *hosts) {
    json_t *list = json_array();
    for (int r = 0; r < world->n_ranks; r++)
        json_array_append_new(list, json_string(hosts + (size_t)r * TT_HOST_BYTES));
    return list;
}

static json_t *describe(const tt_engine *engine, const tt_rundir *rundir, const char *hosts) {
    char started[32], mpi[MPI_MAX_LIBRARY_VERSION_STRING];
    time_t now = time(NULL);
    struct tm utc;
    strftime(started, sizeof started, "%Y-%m-%dT%H:%M:%SZ", gmtime_r(&now, &utc));
    int mpi_length;
    /* as in state.json: many readers of JSON round such numbers */
    char model[17], data[17];
    snprintf(model, sizeof model, "%016" PRIx64, engine->model_fingerprint);
    snprintf(data, sizeof data, "%016" PRIx64, engine->train->fingerprint);
    MPI_Get_library_version(mpi, &mpi_length);
    json_t *command = json_array();
    for (int i = 0; i < engine->argc; i++)
        json_array_append_new(command, json_string(engine->argv[i]));
    return json_pack("{sI ss ss ss ss ss ss so so s{si si si si} ss ss ss}", "generation",
                     (json_int_t)rundir->generation, "started", started, "trimtab",
                     tt_provenance_version(), "git_revision", tt_provenance_git_revision(), "mpi",
                     mpi, "blis", tt_gemm_version(), "blis_kernel", tt_gemm_kernel_name(),
                     "command", command, "hosts", list_hosts(engine->world, hosts), "layout",
                     "ranks", engine->world->n_ranks, "stages", engine->plan->n_stages, "replicas",
                     engine->plan->n_replicas, "threads", engine->plan->n_threads,
                     "model_fingerprint", model, "dataset_fingerprint", data, "model",
                     engine->job->model.path);
}

static tt_status write_life(const tt_engine *engine, const tt_rundir *rundir, const char *hosts,
                            tt_error *err) {
    char dir[TT_PATH_BYTES], name[32], path[TT_PATH_BYTES];
    TT_TRY(tt_file_join(dir, sizeof dir, rundir->path, "lives", err));
    TT_TRY(tt_inside_make_dirs(dir, rundir->n_root, err));
    snprintf(name, sizeof name, "%06lld.json", (long long)rundir->generation);
    TT_TRY(tt_file_join(path, sizeof path, dir, name, err));
    json_t *life = describe(engine, rundir, hosts);
    char *text = life ? json_dumps(life, JSON_INDENT(2)) : NULL;
    json_decref(life);
    if (!text) return tt_fail(err, TT_ERR_FORMAT, "%s: the command line is not UTF-8", path);
    tt_status status = tt_inside_write(path, rundir->n_root, text, strlen(text), err);
    free(text);
    return status;
}

tt_status tt_provenance_write(const tt_engine *engine, const tt_job *job, const tt_cohort *cohort,
                              const tt_rundir *rundir, tt_error *err) {
    const tt_world *world = engine->world;
    void *hosts;
    size_t n;
    TT_TRY(tt_world_gather(world, world->host, TT_HOST_BYTES, &hosts, &n, err));
    tt_status status = TT_OK;
    if (world->rank == 0) {
        status = write_job(job, cohort, rundir, err);
        if (status == TT_OK) status = write_life(engine, rundir, hosts, err);
    }
    free(hosts);
    return tt_world_agree(world, status, err);
}
