"""Programs that use fusedsl, each with a main() that the tests run."""
