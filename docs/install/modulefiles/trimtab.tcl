#%Module1.0
# For environment-modules, and Lmod, which reads Tcl as well. Installed as
# PREFIX/share/modulefiles/trimtab/VERSION it finds PREFIX by itself:
#   module use PREFIX/share/modulefiles && module load trimtab
# Elsewhere, write the prefix here. A site adds what its MPI needs: module load openmpi
set version [file tail $ModulesCurrentModulefile]
set prefix [file normalize [file join [file dirname $ModulesCurrentModulefile] .. .. ..]]

proc ModulesHelp {} {
    puts stderr "trimtab trains tiny adapters for large frozen language models on CPU clusters."
    puts stderr "man trimtab; configs, jobs and SLURM scripts: \$TRIMTAB_SHARE"
}
module-whatis "trimtab $version: adapters for frozen language models on CPU clusters"
conflict trimtab

prepend-path PATH $prefix/bin
prepend-path MANPATH $prefix/share/man
append-path MANPATH ""
prepend-path CMAKE_PREFIX_PATH $prefix
foreach dir [concat [glob -nocomplain $prefix/lib*/pkgconfig] [glob -nocomplain $prefix/lib/*/pkgconfig]] {
    prepend-path PKG_CONFIG_PATH $dir
}
setenv TRIMTAB_SHARE $prefix/share/trimtab
