# Outside libraries, each with one door (docs/architecture.md). Read by CMakeLists.txt, and again by
# the installed package (trimtabConfig.cmake) for programs that use the static library.
#   in: TT_BLAS   auto, blis, or reference (any BLAS by its Fortran names)
#   out: targets MPI::MPI_C, OpenMP::OpenMP_C, PkgConfig::*, tt_blas, tt_scalapack;
#        TT_BLAS_FOUND (blis or reference), TT_MPI_KIND (openmpi, mpich or other)
include_guard(GLOBAL)
include(CheckCSourceCompiles)

find_package(PkgConfig REQUIRED)
find_package(MPI REQUIRED COMPONENTS C)
if(TT_FUZZ) # stops at floor format; clang's OpenMP is a package more
  add_library(OpenMP::OpenMP_C INTERFACE IMPORTED)
else()
  find_package(OpenMP REQUIRED COMPONENTS C)
endif()
foreach(module jansson libconfig libpcre2-8 icu-uc libxxhash)
  pkg_check_modules(${module} REQUIRED IMPORTED_TARGET GLOBAL ${module})
endforeach()

# Which MPI it is decides which ScaLAPACK belongs to it.
function(tt_mpi_is macro result)
  set(CMAKE_REQUIRED_LIBRARIES MPI::MPI_C)
  set(CMAKE_REQUIRED_QUIET ON)
  check_c_source_compiles("#include <mpi.h>
#ifndef ${macro}
#error another one
#endif
int main(void) { return 0; }" ${result})
endfunction()
tt_mpi_is(OPEN_MPI TT_MPI_IS_OPENMPI)
tt_mpi_is(MPICH_VERSION TT_MPI_IS_MPICH)
set(TT_MPI_KIND other)
if(TT_MPI_IS_OPENMPI)
  set(TT_MPI_KIND openmpi)
elseif(TT_MPI_IS_MPICH)
  set(TT_MPI_KIND mpich)
endif()

# BLIS by its own name, never through libblas.so.3: what that points to may be another BLAS.
set(TT_BLAS auto CACHE STRING "BLAS: auto, blis, or reference (slow; or another by -DTT_BLAS_LIBRARY)")
set_property(CACHE TT_BLAS PROPERTY STRINGS auto blis reference)
if(NOT TT_BLAS MATCHES "^(auto|blis|reference)$")
  message(FATAL_ERROR "TT_BLAS=${TT_BLAS}, expected auto, blis or reference")
endif()
set(TT_BLAS_FOUND ${TT_BLAS})
if(NOT TT_BLAS STREQUAL "reference")
  find_path(BLIS_INCLUDE_DIR blis.h PATH_SUFFIXES blis-openmp blis)
  find_library(BLIS_LIBRARY NAMES blis-mt blis PATH_SUFFIXES blis-openmp)
  if(BLIS_INCLUDE_DIR AND BLIS_LIBRARY)
    set(TT_BLAS_FOUND blis)
  elseif(TT_BLAS STREQUAL "blis")
    message(FATAL_ERROR "no BLIS here (blis.h: ${BLIS_INCLUDE_DIR}, library: ${BLIS_LIBRARY}). "
      "Debian: libblis-openmp-dev. Elsewhere: -DCMAKE_PREFIX_PATH=. Slow, without it: "
      "-DTT_BLAS=reference")
  else()
    set(TT_BLAS_FOUND reference)
  endif()
endif()
if(NOT TARGET tt_blas)
  add_library(tt_blas INTERFACE IMPORTED GLOBAL)
  if(TT_BLAS_FOUND STREQUAL "blis")
    set(TT_BLAS_FILE ${BLIS_LIBRARY})
    target_include_directories(tt_blas SYSTEM INTERFACE ${BLIS_INCLUDE_DIR})
  else()
    find_library(TT_BLAS_LIBRARY NAMES blas PATH_SUFFIXES blas REQUIRED)
    set(TT_BLAS_FILE ${TT_BLAS_LIBRARY})
    message(WARNING "BLAS is ${TT_BLAS_FILE} by its Fortran names, not BLIS: reference BLAS is SLOW "
      "(fp32 models, merging, spectral methods; products with bf16 weights are trimtab's own)")
  endif()
  get_filename_component(TT_BLAS_DIR ${TT_BLAS_FILE} DIRECTORY)
  target_link_libraries(tt_blas INTERFACE ${TT_BLAS_FILE} OpenMP::OpenMP_C m)
  target_link_options(tt_blas INTERFACE -Wl,-rpath,${TT_BLAS_DIR})
endif()

# LAPACK and ScaLAPACK call a BLAS by Fortran names. libblis defines them too and stands before them
# on the link line, so that their products run in BLIS whatever libblas.so.3 is. (Therefore not
# find_package(LAPACK), which would name that other BLAS.)
find_library(LAPACK_LIBRARY NAMES lapack REQUIRED)
find_library(SCALAPACK_LIBRARY NAMES scalapack-${TT_MPI_KIND} scalapack PATH_SUFFIXES
  ${TT_MPI_KIND}/lib REQUIRED)
if(NOT TARGET tt_scalapack)
  add_library(tt_scalapack INTERFACE IMPORTED GLOBAL)
  target_link_libraries(tt_scalapack INTERFACE tt_blas ${SCALAPACK_LIBRARY} ${LAPACK_LIBRARY})
endif()
