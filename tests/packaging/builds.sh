#!/usr/bin/env bash
# Builds with other compilers, MPIs and BLAS, and runs a part of the suite with each.
#   tests/packaging/builds.sh [--full] [COMPILER-MPI-BLAS ...]     e.g. clang-openmpi-blis
# Without --full: what every build must pass in short. With it: all of
# unit, mpi, golden, cli and package. Without names: {gcc,clang} x {openmpi,mpich} x {blis,reference}, a
# shared library, and a build for any processor. One line a build; exit status 1 on any failure.
set -u
cd "$(dirname "$0")/../.." || exit 1
full=
if [ "${1:-}" = --full ]; then
    full=yes
    shift
fi
builds=("$@")
if [ ${#builds[@]} = 0 ]; then
    for compiler in gcc clang; do
        for mpi in openmpi mpich; do
            for blas in blis reference; do builds+=("$compiler-$mpi-$blas"); done
        done
    done
    builds+=(gcc-openmpi-blis-shared gcc-openmpi-blis-portable)
fi
targets=(trimtab_cli manual test_mpi_train)
for name in unit_{gemm,gemm_storage,ops,ops_attention,svd,tokenizer,job,adapter,stage} \
    mpi_{world,pipeline,reduce,wire,svd,checkpoint}; do targets+=("test_$name"); done
[ -z "$full" ] || targets=(all)
short='^(unit\.(gemm|gemm_storage|ops|ops_attention|svd|tokenizer|job|adapter|stage|floors)|mpi\.(world|pipeline|reduce|wire|svd|checkpoint)\.[124]|mpi\.train\.4|cli\.(help|doctor_and_bench|mistakes_of_the_command_line|train_eval_generate|resume_is_asked_for|signal_checkpoints_and_resumes|lora_trains|spectral_and_pissa_train|traced_run_tells_where_time_went)|package\..*)$'
failed=0
for build in "${builds[@]}"; do
    IFS=- read -r compiler mpi blas more <<<"$build"
    dir=build/matrix/$build
    options=(-DCMAKE_BUILD_TYPE=Release -DCMAKE_C_FLAGS_RELEASE=-O2 -DTT_TESTS=ON
        -DCMAKE_C_COMPILER="$compiler" -DTT_BLAS="$blas")
    unset MPIRUN
    if command -v "mpicc.$mpi" >/dev/null; then # Debian has both side by side
        options+=(-DMPI_C_COMPILER="mpicc.$mpi" -DMPIEXEC_EXECUTABLE="$(command -v "mpirun.$mpi")")
        export MPIRUN=mpirun.$mpi
    fi
    case $more in
    shared) options+=(-DBUILD_SHARED_LIBS=ON) ;;
    portable) options+=(-DTT_NATIVE=OFF -DCMAKE_C_FLAGS=-march=x86-64) ;;
    esac
    mkdir -p "$dir"
    if ! { cmake -S . -B "$dir" "${options[@]}" && cmake --build "$dir" -j "$(nproc)" -t "${targets[@]}"; } \
        >"$dir/build.log" 2>&1; then
        echo "$build: does not build (error: $(grep -m 1 -E 'error|Error' "$dir/build.log"))"
        failed=1
        continue
    fi
    parts=(-R "$short")
    # MPICH's ranks wait by spinning: with more of them than cores a test's time is up first.
    [ "$mpi" != mpich ] || [ "$(nproc)" -ge 4 ] || parts+=(-E '\.4$')
    [ -z "$full" ] || parts[0]=-L parts[1]='unit|mpi|golden|cli|package'
    ctest --test-dir "$dir" --output-on-failure -j "$(nproc)" "${parts[@]}" >"$dir/test.log" 2>&1 || failed=1
    echo "$build: $("$dir/trimtab" --version --verbose | sed -n 's/^\(compiler\|MPI\|BLAS\)  *//p' |
        cut -d , -f 1 | paste -sd ';'): $(grep 'tests passed' "$dir/test.log" || tail -n 1 "$dir/test.log")"
    grep -E '\(Failed\)|\(Timeout\)|\*\*\*' "$dir/test.log" | grep -v Skipped | sort -u | head -n 20
done
exit $failed
