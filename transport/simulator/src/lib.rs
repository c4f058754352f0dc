//! Host and target in one thread, under a seeded scheduler with virtual time.
