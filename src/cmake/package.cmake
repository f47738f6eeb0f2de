# cpack -G DEB in a build of the preset "package" (docs/install/README.md): two packages, trimtab (program,
# man pages, completions, share/trimtab) and libtrimtab-dev (archive, headers, packages for builds).
set(CPACK_PACKAGE_NAME trimtab)
set(CPACK_PACKAGE_VENDOR trimtab)
# Who packs it says so: cpack -D CPACK_PACKAGE_CONTACT="NAME <MAIL>".
set(CPACK_PACKAGE_CONTACT "trimtab <trimtab@localhost>")
set(CPACK_PACKAGE_DESCRIPTION_SUMMARY "train tiny adapters for large frozen language models on CPU clusters")
set(CPACK_PACKAGING_INSTALL_PREFIX /usr)
set(CPACK_STRIP_FILES ON)
set(CPACK_COMPONENTS_ALL program devel)
set(CPACK_COMPONENT_PROGRAM_DESCRIPTION
"Adapters (LoRA, steering of activations and others) for language models of the
Llama, Qwen, Gemma, Mistral, Phi, OLMo and Granite families are trained by MPI
ranks that hold the layers in a pipeline; checkpoints resume on any layout.
Reads Hugging Face models, tokenizers and JSONL data as they lie on disk.")
set(CPACK_COMPONENT_DEVEL_DESCRIPTION
"Static library and headers of trimtab, with its pkg-config file and CMake
package.")

set(CPACK_DEB_COMPONENT_INSTALL ON)
set(CPACK_DEBIAN_FILE_NAME DEB-DEFAULT)
set(CPACK_DEBIAN_PACKAGE_PRIORITY optional)
set(CPACK_DEBIAN_PACKAGE_CONTROL_STRICT_PERMISSION ON)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_NAME trimtab)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SECTION science)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_SHLIBDEPS ON)
set(CPACK_DEBIAN_DEVEL_PACKAGE_NAME libtrimtab-dev)
set(CPACK_DEBIAN_DEVEL_PACKAGE_SECTION libdevel)
# shlibdeps names what the program is linked with; mpirun is a program of its own, and of the
# packages that have a libblis.so.4 the one it is looked for in first has threads.
set(mpi_programs_openmpi openmpi-bin)
set(mpi_programs_mpich mpich)
set(CPACK_DEBIAN_PROGRAM_PACKAGE_DEPENDS "${mpi_programs_${TT_MPI_KIND}}")
set(mpi_devel_openmpi "libopenmpi-dev, libscalapack-openmpi-dev")
set(mpi_devel_mpich "libmpich-dev, libscalapack-mpich-dev")
set(blas_devel libblas-dev)
if(TT_BLAS_FOUND STREQUAL "blis")
  string(APPEND CPACK_DEBIAN_PROGRAM_PACKAGE_DEPENDS ", libblis4-openmp")
  set(blas_devel libblis-openmp-dev)
endif()
set(CPACK_DEBIAN_DEVEL_PACKAGE_DEPENDS "${mpi_devel_${TT_MPI_KIND}}, ${blas_devel}, liblapack-dev, \
libjansson-dev, libconfig-dev, libpcre2-dev, libicu-dev, libxxhash-dev")

# What Debian's policy wants besides: who holds the rights, and why the program has a path to libblis.
file(WRITE ${PROJECT_BINARY_DIR}/debian/overrides "# libblis.so.4 is a matter of alternatives; trimtab \
wants the one with OpenMP threads.\ntrimtab: custom-library-search-path RUNPATH *\n")
install(FILES LICENSE RENAME copyright DESTINATION share/doc/trimtab COMPONENT program EXCLUDE_FROM_ALL)
install(FILES LICENSE RENAME copyright DESTINATION share/doc/libtrimtab-dev COMPONENT devel
  EXCLUDE_FROM_ALL)
install(FILES ${PROJECT_BINARY_DIR}/debian/overrides RENAME trimtab
  DESTINATION share/lintian/overrides COMPONENT program EXCLUDE_FROM_ALL)
set(CPACK_PRE_BUILD_SCRIPTS ${PROJECT_SOURCE_DIR}/src/cmake/compress.cmake)

# A package runs on other machines than the one that made it.
file(WRITE ${PROJECT_BINARY_DIR}/cmake/cpack_project.cmake
  "if(\"${TT_NATIVE}\")
  message(FATAL_ERROR \"packages want -DTT_NATIVE=OFF: this build runs on machines like this one only\")
endif()\n")
set(CPACK_PROJECT_CONFIG_FILE ${PROJECT_BINARY_DIR}/cmake/cpack_project.cmake)
include(CPack)
