#!/bin/sh
# Runs a program on N oversubscribed ranks of this machine: tests/mpirun.sh N PROGRAM [ARG ...]
# One thread a rank unless OMP_NUM_THREADS says otherwise; loopback only, so that no firewall or
# interface list decides a test.
# Open MPI's mpirun, or the one that MPIRUN names: mpirun.mpich for a build with MPICH.
n=$1
shift
if [ "$(id -u)" = 0 ]; then
    export OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1
fi
export OMP_NUM_THREADS="${OMP_NUM_THREADS:-1}"
export OMPI_MCA_rmaps_base_oversubscribe=1 OMPI_MCA_mpi_yield_when_idle=1
export OMPI_MCA_btl_vader_single_copy_mechanism=none
export OMPI_MCA_oob_tcp_if_include=lo OMPI_MCA_btl_tcp_if_include=lo
case ${MPIRUN:-} in
*mpich* | *hydra*)
    export FI_TCP_IFACE=lo UCX_NET_DEVICES=lo MPIR_CVAR_POLLS_BEFORE_YIELD=1
    exec "$MPIRUN" -launcher fork -bind-to none -n "$n" "$@"
    ;;
esac
exec ${MPIRUN:-mpirun} --oversubscribe --bind-to none -n "$n" "$@"
