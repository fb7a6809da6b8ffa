"""The semantic pass: what a file's names mean, what is known as it compiles, and the PE-IR of the rest."""
