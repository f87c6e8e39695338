// Kernel restrictions that a process puts on itself: Landlock and seccomp. Private to base.
//
// Threads: the prepare functions allocate and run in the parent; the apply functions use only raw
// system calls, so that they may run between vfork and exec.
#pragma once

#include <linux/filter.h>

#include <vector>

#include "base/file.h"

namespace apud {

/// Filter that refuses (EPERM) sockets, new processes, tracing, mounts and kernel interfaces that a
/// parser never needs; with `sealed` also opening files and executing programs.
std::vector<sock_filter> seccomp_program(bool sealed);

/// Landlock domain in which only `readable` trees can be read and executed and nothing be written.
/// Invalid descriptor when the kernel has no Landlock.
FileDescriptor landlock_domain(const std::vector<Path>& readable);

/// Applies both to the calling thread and what it executes. `landlock_fd` may be -1. False only
/// when the seccomp filter was refused although no_new_privs could be set (old kernels).
bool apply_sandbox(const sock_filter* program, unsigned short length, int landlock_fd);

}  // namespace apud
