// OpenBLAS, loaded at first use. Its threads spin for a tenth of a second when the library is
// loaded, on the cores that a question needs meanwhile, and only the training of an inverted file
// (FAISS's k-means) calls it: linked, every command paid for it (0.1 s of a processor, 20 ms of
// relocations).
#pragma once

namespace apud {

/// Loads the library. Throws Error (kUnavailable) where it cannot be loaded; call it before FAISS
/// trains, whose own call could not.
void load_blas();

}  // namespace apud
