// The schema of the store and its numbered migrations (docs/formats.md describes the tables).
#pragma once

#include "rag/store/sqlite.h"

namespace apud::sqlite {

inline constexpr int kSchemaVersion = 7;
inline constexpr int kApplicationId = 0x61707564;  // "apud"

/// Of a file that is ours: is it empty or of an older version? Throws as migrate().
bool needs_migration(Database& db);
/// Creates or migrates. Throws kBadData for a file that is not ours or of a newer apud.
/// REQUIRES: the caller holds the write lock.
void migrate(Database& db);
/// Throws kBadData unless the file holds only the objects we make. REQUIRES: it is of this version.
void verify_schema(Database& db);

}  // namespace apud::sqlite
