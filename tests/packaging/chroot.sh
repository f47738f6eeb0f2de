# Sourced: a fresh Debian root as this machine's, made by debootstrap, whose mounts end with the shell.
# Needs root and a package mirror; else exits with 77 and says why.
#   chroot_begin DIR      makes it; DIR is removed by the caller
#   inside COMMAND ...    runs something in it, as root, with a plain environment
chroot_begin() {
    root=$1
    local mirror suite
    [ "$(id -u)" = 0 ] || { echo "skipped: a chroot wants root"; exit 77; }
    command -v debootstrap >/dev/null || { echo "skipped: no debootstrap"; exit 77; }
    suite=$(. /etc/os-release && echo "${VERSION_CODENAME:-}")
    mirror=$(apt-get indextargets --format '$(REPO_URI)' 'Created-By: Packages' | head -n 1)
    [ -n "$suite" ] && [ -n "$mirror" ] || { echo "skipped: apt names no mirror"; exit 77; }
    # The machine's own proxies and certificates of the mirror are the mirror's business: settings of
    # apt are taken over.
    debootstrap --variant=minbase "$suite" "$root" "$mirror" >"$root.log" 2>&1 ||
        { tail -n 5 "$root.log"; echo "skipped: debootstrap failed"; exit 77; }
    cp /etc/resolv.conf "$root/etc/" 2>/dev/null
    cp -r /etc/apt/apt.conf.d/. "$root/etc/apt/apt.conf.d/"
    mount -t proc proc "$root/proc" && mount -t tmpfs tmpfs "$root/dev/shm" 2>/dev/null ||
        { mkdir -p "$root/dev/shm" && mount -t tmpfs tmpfs "$root/dev/shm"; }
    inside apt-get update -q >"$root.log" 2>&1 || { tail -n 5 "$root.log"; exit 77; }
}
inside() {
    env -i PATH=/usr/sbin:/usr/bin:/sbin:/bin HOME=/root LC_ALL=C DEBIAN_FRONTEND=noninteractive \
        http_proxy="${http_proxy:-}" https_proxy="${https_proxy:-}" \
        OMPI_ALLOW_RUN_AS_ROOT=1 OMPI_ALLOW_RUN_AS_ROOT_CONFIRM=1 OMP_NUM_THREADS=1 \
        OMPI_MCA_btl_vader_single_copy_mechanism=none OMPI_MCA_rmaps_base_oversubscribe=1 \
        chroot "$root" "$@"
}
