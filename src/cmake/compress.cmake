# Run by cpack on what is to be packed: a change log, then it and the man pages are compressed, without
# a date inside.
set(at ${CPACK_TEMPORARY_INSTALL_DIRECTORY})
string(TIMESTAMP changed "%a, %d %b %Y %H:%M:%S +0000" UTC)
foreach(component program devel)
  file(GLOB docs ${at}/${component}/usr/share/doc/*)
  foreach(doc ${docs})
    file(WRITE ${doc}/changelog "trimtab (${CPACK_PACKAGE_VERSION}) unstable; urgency=medium\n\n\
  * Built from its sources by cpack.\n\n -- ${CPACK_PACKAGE_CONTACT}  ${changed}\n")
  endforeach()
endforeach()
file(GLOB_RECURSE pages ${at}/*/usr/share/man/*.[15] ${at}/*/usr/share/doc/*/changelog)
foreach(page ${pages})
  execute_process(COMMAND gzip -9n ${page} COMMAND_ERROR_IS_FATAL ANY)
endforeach()
