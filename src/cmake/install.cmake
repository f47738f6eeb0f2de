# cmake --install: program, library, headers, pkg-config and CMake package, man pages, completions,
# and what comes with trimtab (share/trimtab). docs/install/README.md. Nothing installed names the
# build or the prefix: the tree can be moved.
include(GNUInstallDirs)
include(CMakePackageConfigHelpers)
set(share ${CMAKE_INSTALL_DATADIR}/trimtab)

set(TT_ZSH_DIR ${CMAKE_INSTALL_DATADIR}/zsh/site-functions CACHE STRING
  "Where zsh looks for completions (Debian's packages: share/zsh/vendor-completions)")

# --- What is made: man pages and completions ---------------------------------------------------
set(manual_dir ${PROJECT_BINARY_DIR}/manual)
set(manual_pages)
if(NOT CMAKE_CROSSCOMPILING)
  add_executable(trimtab_manual src/door/manual.c src/door/manual_pages.c src/door/manual_shells.c
    $<TARGET_OBJECTS:trimtab_door>)
  target_link_libraries(trimtab_manual PRIVATE trimtab)
  # Leaks of libraries at exit are nothing to a build under the sanitizers.
  add_custom_command(OUTPUT ${manual_dir}/trimtab.1
    COMMAND ${CMAKE_COMMAND} -E make_directory ${manual_dir}
    COMMAND ${CMAKE_COMMAND} -E env ASAN_OPTIONS=detect_leaks=0
      $<TARGET_FILE:trimtab_manual> ${manual_dir} ${PROJECT_SOURCE_DIR}/src/door/completion.bash
    DEPENDS trimtab_manual ${PROJECT_SOURCE_DIR}/src/door/completion.bash VERBATIM)
  add_custom_target(manual ALL DEPENDS ${manual_dir}/trimtab.1)
  install(DIRECTORY ${manual_dir}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man1
    COMPONENT program FILES_MATCHING PATTERN *.1)
  install(DIRECTORY ${manual_dir}/ DESTINATION ${CMAKE_INSTALL_MANDIR}/man5
    COMPONENT program FILES_MATCHING PATTERN *.5)
  install(FILES ${manual_dir}/trimtab.bash RENAME trimtab
    DESTINATION ${CMAKE_INSTALL_DATADIR}/bash-completion/completions COMPONENT program)
  install(FILES ${manual_dir}/_trimtab DESTINATION ${TT_ZSH_DIR} COMPONENT program)
  install(FILES ${manual_dir}/trimtab.fish
    DESTINATION ${CMAKE_INSTALL_DATADIR}/fish/vendor_completions.d COMPONENT program)
endif()

# --- Program, library, headers -----------------------------------------------------------------
# Libraries outside the system's directories (Spack, modules) are found where they were at build time.
set_target_properties(trimtab_cli PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
if(BUILD_SHARED_LIBS)
  file(RELATIVE_PATH lib_from_bin /${CMAKE_INSTALL_BINDIR} /${CMAKE_INSTALL_LIBDIR})
  set_target_properties(trimtab_cli PROPERTIES INSTALL_RPATH "$ORIGIN/${lib_from_bin}")
  set_target_properties(trimtab PROPERTIES INSTALL_RPATH_USE_LINK_PATH ON)
endif()
install(TARGETS trimtab_cli RUNTIME DESTINATION ${CMAKE_INSTALL_BINDIR} COMPONENT program)
install(TARGETS trimtab EXPORT trimtabTargets
  ARCHIVE DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT devel
  LIBRARY DESTINATION ${CMAKE_INSTALL_LIBDIR} COMPONENT program NAMELINK_COMPONENT devel
  INCLUDES DESTINATION ${CMAKE_INSTALL_INCLUDEDIR})
install(DIRECTORY include/trimtab DESTINATION ${CMAKE_INSTALL_INCLUDEDIR} COMPONENT devel
  FILES_MATCHING PATTERN *.h)

# --- For other builds --------------------------------------------------------------------------
set(package_dir ${CMAKE_INSTALL_LIBDIR}/cmake/trimtab)
set(TT_SHARE_DIR ${share})
configure_package_config_file(src/cmake/trimtabConfig.cmake.in
  ${PROJECT_BINARY_DIR}/cmake/trimtabConfig.cmake INSTALL_DESTINATION ${package_dir}
  PATH_VARS TT_SHARE_DIR)
# 0.x: a minor version may change anything.
write_basic_package_version_file(${PROJECT_BINARY_DIR}/cmake/trimtabConfigVersion.cmake
  COMPATIBILITY SameMinorVersion)
install(FILES ${PROJECT_BINARY_DIR}/cmake/trimtabConfig.cmake
  ${PROJECT_BINARY_DIR}/cmake/trimtabConfigVersion.cmake src/cmake/TrimtabLibraries.cmake
  DESTINATION ${package_dir} COMPONENT devel)
install(EXPORT trimtabTargets NAMESPACE trimtab:: DESTINATION ${package_dir} COMPONENT devel)

set(TT_PC_MODULES jansson libconfig libpcre2-8 icu-uc libxxhash)
set(libs "-L\${libdir} -ltrimtab")
set(needs)
set(TT_PC_CFLAGS)
# An MPI without a pkg-config file of that name is named by its flags.
set(mpi_module_openmpi ompi-c)
set(mpi_module_mpich mpich)
set(mpi_module ${mpi_module_${TT_MPI_KIND}})
if(mpi_module)
  pkg_check_modules(mpi_pc QUIET ${mpi_module})
endif()
if(mpi_pc_FOUND)
  list(APPEND TT_PC_MODULES ${mpi_module})
else()
  list(TRANSFORM MPI_C_INCLUDE_DIRS PREPEND -I OUTPUT_VARIABLE TT_PC_CFLAGS)
  list(APPEND needs ${MPI_C_LIBRARIES})
endif()
list(APPEND needs -Wl,-rpath,${TT_BLAS_DIR} ${TT_BLAS_FILE} ${SCALAPACK_LIBRARY} ${LAPACK_LIBRARY}
  ${OpenMP_C_FLAGS} -lm)
list(JOIN TT_PC_CFLAGS " " TT_PC_CFLAGS)
list(JOIN TT_PC_MODULES " " TT_PC_MODULES)
list(JOIN needs " " needs)
if(BUILD_SHARED_LIBS)
  set(TT_PC_REQUIRES Requires.private)
  set(TT_PC_LIBS "Libs: ${libs}\nLibs.private: ${needs}")
  if(mpi_pc_FOUND) # trimtab/world.h includes mpi.h
    set(TT_PC_REQUIRES "Requires: ${mpi_module}\nRequires.private")
  endif()
else() # there is only the archive: whoever links it needs all of them
  set(TT_PC_REQUIRES Requires)
  set(TT_PC_LIBS "Libs: ${libs} ${needs}")
endif()
file(RELATIVE_PATH TT_PREFIX_FROM_PC /${CMAKE_INSTALL_LIBDIR}/pkgconfig /)
string(REGEX REPLACE "/$" "" TT_PREFIX_FROM_PC "${TT_PREFIX_FROM_PC}")
configure_file(src/cmake/trimtab.pc.in ${PROJECT_BINARY_DIR}/trimtab.pc @ONLY)
install(FILES ${PROJECT_BINARY_DIR}/trimtab.pc DESTINATION ${CMAKE_INSTALL_LIBDIR}/pkgconfig
  COMPONENT devel)

# --- What comes with it ------------------------------------------------------------------------
install(DIRECTORY configs DESTINATION ${share} COMPONENT program)
install(DIRECTORY slurm DESTINATION ${share} COMPONENT program USE_SOURCE_PERMISSIONS)
install(DIRECTORY jobs/ DESTINATION ${share}/jobs COMPONENT program FILES_MATCHING PATTERN *.cfg
  PATTERN quickstart EXCLUDE)
install(DIRECTORY jobs/quickstart/model DESTINATION ${share}/jobs/quickstart COMPONENT program)
install(DIRECTORY docs/ DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)
install(FILES README.md LICENSE DESTINATION ${CMAKE_INSTALL_DOCDIR} COMPONENT program)
install(FILES docs/install/modulefiles/trimtab.tcl RENAME ${PROJECT_VERSION}
  DESTINATION ${CMAKE_INSTALL_DATADIR}/modulefiles/trimtab COMPONENT program)
install(FILES docs/install/modulefiles/trimtab.lua RENAME ${PROJECT_VERSION}.lua
  DESTINATION ${CMAKE_INSTALL_DATADIR}/modulefiles/trimtab COMPONENT program)
include(src/cmake/package.cmake)
