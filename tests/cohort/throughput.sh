#!/usr/bin/env bash
# What a cohort gains: MEMBERS runs of rank-8 post-block steering, 16 examples of about 100 tokens a
# step each, on RANKS stages - together, and one after another with the same ranks - on a model of
# random numbers. Prints throughput with and without what comes before the first step, their ratio,
# the peak memory of a rank, and whether all adapters have the same bytes.
#     throughput.sh TRIMTAB [WORK_DIR]
# MEMBERS=8 RESIDENT=0 STEPS=6 RANKS=2 HIDDEN=768 INNER=2048 LAYERS=8 SETS="group.key=value ..."
set -eu
trimtab=$(realpath "$1")
here=$(cd "$(dirname "$0")" && pwd)
source=$(cd "$here/../.." && pwd)
if [ $# -gt 1 ]; then
    mkdir -p "$2" && work=$(realpath "$2")
else
    work=$(mktemp -d)
    trap 'rm -rf "$work"' EXIT
fi
: "${MEMBERS:=8}" "${RESIDENT:=0}" "${STEPS:=6}" "${RANKS:=2}" "${HIDDEN:=768}" "${INNER:=2048}"
: "${LAYERS:=8}" "${SETS:=}"
cd "$work"
[ -d model ] || python3 "$here/make_model.py" model "$source/jobs/quickstart/model" "$HIDDEN" \
    "$INNER" "$LAYERS"
"$trimtab" data listops --train train.jsonl --n-train 256 --eval eval.jsonl --n-eval 2 --max-depth 3 \
    --max-args 5 --min-length 45 --max-length 75 --seed 1 >/dev/null
cat >job.cfg <<END
model: { path = "model"; };
task: { file = "$source/configs/tasks/listops.cfg"; train = "train.jsonl"; };
method: { form = "nonlinear"; rank = 8; };
train: { steps = $STEPS; batch_size = 16; lr = 1e-3; };
parallel: { stages = $RANKS; threads = 1; };
checkpoint: { every = 0; };
log: { every = 1000; };
END
{
    cat job.cfg
    echo "cohort = { resident = $RESIDENT; members = ("
    for i in $(seq "$MEMBERS"); do
        echo "  { name = \"m$i\"; train = { seed = $i; lr = ${i}e-3; }; }$([ "$i" = "$MEMBERS" ] || echo ,)"
    done
    echo "); };"
} >cohort.cfg
sets=()
for set in $SETS; do sets+=(--set "$set"); done
run() { # run FILE JOB ARGUMENTS ...: appends the seconds it took
    local out=$1 began=$(date +%s.%N)
    shift
    "$source/tests/mpirun.sh" "$RANKS" "$trimtab" train "$@" "${sets[@]}" >"$out"
    echo "wall $(echo "$(date +%s.%N) - $began" | bc)" >>"$out"
}
rm -rf together alone
run together.out cohort.cfg --set run.dir=together
for i in $(seq "$MEMBERS"); do
    run "alone$i.out" job.cfg --set run.dir="alone/m$i" --set train.seed="$i" --set train.lr="${i}e-3"
done
python3 - "$MEMBERS" "$STEPS" <<'END'
import filecmp, glob, re, sys
members, steps = map(int, sys.argv[1:])

def read(path):
    text = open(path).read()
    units = {"MiB": 1, "GiB": 1024}
    number, unit = re.search(r"memory per rank +([\d.]+) (\w+) at most", text).groups()
    planned = re.search(r"at most, ([\d.]+) (\w+) planned", text).groups()
    return {"wall": float(re.search(r"^wall ([\d.]+)", text, re.M)[1]),
            "train": float(re.search(r"^  (?:time|training) +([\d.]+) s", text, re.M)[1]),
            "peak": float(number) * units[unit], "planned": float(planned[0]) * units[planned[1]]}

together = read("together.out")
alone = [read(f"alone{i + 1}.out") for i in range(members)]
tokens = sum(float(t) for t in re.findall(r'"tokens":(\d+)', "".join(
    open(p).read() for p in glob.glob("alone/*/metrics.jsonl"))))
wall, train = (sum(a[k] for a in alone) for k in ("wall", "train"))
peak, planned = (max(a[k] for a in alone) for k in ("peak", "planned"))
print(f"{members} members, {steps} steps each")
print(f"{'':24} {'alone':>10} {'together':>10} {'ratio':>8}")
print(f"{'seconds of training':24} {train:10.2f} {together['train']:10.2f} "
      f"{train / together['train']:8.2f}")
print(f"{'seconds, all counted':24} {wall:10.2f} {together['wall']:10.2f} "
      f"{wall / together['wall']:8.2f}")
print(f"{'MiB a rank at most':24} {peak:10.1f} {together['peak']:10.1f} "
      f"{together['peak'] / peak:8.2f}")
print(f"{'MiB a rank planned':24} {planned:10.1f} {together['planned']:10.1f} "
      f"{together['planned'] / planned:8.2f}")
same = sum(filecmp.cmp(glob.glob(f"alone/m{i}/checkpoints/*/adapter.safetensors")[0],
                       glob.glob(f"together/m{i}/checkpoints/*/adapter.safetensors")[0],
                       shallow=False) for i in range(1, members + 1))
print(f"adapters with the same bytes: {same} of {members}")
END
