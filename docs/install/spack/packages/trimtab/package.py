# A recipe for Spack (0.21 and later): docs/install/README.md says how it is used.
from spack.package import *


class Trimtab(CMakePackage):
    """Trains tiny adapters (LoRA, steering of activations and others) for large, frozen language
    models on CPU clusters: an MPI batch trainer in C that holds a model's layers in a pipeline of
    ranks. Reads Hugging Face models, tokenizers and JSONL data as they lie on disk."""

    license("MIT")

    # No place to fetch a release from is set down here: build from a clone,
    #   spack develop --path /path/to/trimtab trimtab@=main
    # or name one:  spack config add packages:trimtab:package_attributes:git:URL
    version("main", branch="main")

    variant("shared", default=False, description="Build libtrimtab as a shared library")
    variant(
        "blas",
        default="blis",
        values=("blis", "amdblis", "any"),
        multi=False,
        description="Products by BLIS or AMD's; by any other BLAS they are slower",
    )
    variant(
        "native",
        default=False,
        description="Compile for the building machine only, beyond Spack's own target flags",
    )

    depends_on("c", type="build")
    depends_on("cmake@3.22:", type="build")
    depends_on("pkgconfig", type="build")

    depends_on("mpi@3:")
    depends_on("scalapack")
    depends_on("lapack")
    # BLIS by its own interface and with OpenMP threads; LAPACK's products run in it as well.
    depends_on("blis@0.9: threads=openmp +blas", when="blas=blis")
    depends_on("amdblis@3: threads=openmp +blas", when="blas=amdblis")
    depends_on("blas", when="blas=any")
    depends_on("jansson@2.13:")
    depends_on("libconfig@1.5:")
    depends_on("pcre2@10.32:")
    depends_on("icu4c@60:")
    depends_on("xxhash@0.8:")

    # Tests of the sources: spack install --test=root
    depends_on("cmocka", type="test")
    depends_on("python@3.8:", type="test")

    def cmake_args(self):
        spec = self.spec
        args = [
            self.define("TT_BLAS", "reference" if spec.satisfies("blas=any") else "blis"),
            self.define_from_variant("TT_NATIVE", "native"),
            self.define_from_variant("BUILD_SHARED_LIBS", "shared"),
            self.define("TT_TESTS", "ON" if self.run_tests else "OFF"),
            self.define("MPI_C_COMPILER", spec["mpi"].mpicc),
            self.define("LAPACK_LIBRARY", spec["lapack"].libs[0]),
            self.define("SCALAPACK_LIBRARY", spec["scalapack"].libs[0]),
        ]
        if spec.satisfies("blas=any"):
            args.append(self.define("TT_BLAS_LIBRARY", spec["blas"].libs[0]))
        return args

    def check(self):
        with working_dir(self.build_directory):
            ctest("-L", "unit", "--output-on-failure")

    def test_version(self):
        """the program starts, finds its files, and says what it is made of"""
        trimtab = which(self.prefix.bin.trimtab)
        said = trimtab("--version", "--verbose", output=str.split, error=str.split)
        assert "share/trimtab" in said, said
