-- For Lmod, as trimtab.tcl: installed as PREFIX/share/modulefiles/trimtab/VERSION.lua.
local prefix = myFileName():gsub("/share/modulefiles/trimtab/[^/]*$", "")

whatis("trimtab " .. myModuleVersion() .. ": adapters for frozen language models on CPU clusters")
help([[trimtab trains tiny adapters for large frozen language models on CPU clusters.
man trimtab; configs, jobs and SLURM scripts: $TRIMTAB_SHARE]])
conflict("trimtab")

prepend_path("PATH", pathJoin(prefix, "bin"))
prepend_path("MANPATH", pathJoin(prefix, "share/man"))
append_path("MANPATH", "")
prepend_path("CMAKE_PREFIX_PATH", prefix)
for _, lib in ipairs({ "lib", "lib64", "lib/x86_64-linux-gnu", "lib/aarch64-linux-gnu" }) do
    local dir = pathJoin(prefix, lib, "pkgconfig")
    if isDir(dir) then
        prepend_path("PKG_CONFIG_PATH", dir)
    end
end
setenv("TRIMTAB_SHARE", pathJoin(prefix, "share/trimtab"))
