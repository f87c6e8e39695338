#include "base/sandbox.h"

#include <fcntl.h>
#include <linux/audit.h>
#include <linux/landlock.h>
#include <linux/sched.h>
#include <linux/seccomp.h>
#include <sys/prctl.h>
#include <sys/stat.h>
#include <sys/syscall.h>
#include <unistd.h>

#include <cerrno>
#include <cstddef>

namespace apud {

namespace {

#if defined(__x86_64__)
constexpr unsigned kArch = AUDIT_ARCH_X86_64;
#elif defined(__aarch64__)
constexpr unsigned kArch = AUDIT_ARCH_AARCH64;
#else
constexpr unsigned kArch = 0;
#endif

// Numbers that bookworm's headers may lack.
constexpr long kLandlockCreate = 444, kLandlockAdd = 445, kLandlockRestrict = 446;

const long kRefused[] = {
    SYS_socket,
    SYS_socketpair,
    SYS_connect,
    SYS_bind,
    SYS_listen,
    SYS_accept,
    SYS_accept4,
    SYS_sendto,
    SYS_sendmsg,
    SYS_sendmmsg,
    SYS_ptrace,
    SYS_process_vm_readv,
    SYS_process_vm_writev,
    SYS_kill,
    SYS_tkill,
    SYS_mount,
    SYS_umount2,
    SYS_pivot_root,
    SYS_chroot,
    SYS_setns,
    SYS_unshare,
    SYS_bpf,
    SYS_perf_event_open,
    SYS_userfaultfd,
    SYS_keyctl,
    SYS_add_key,
    SYS_request_key,
    SYS_init_module,
    SYS_finit_module,
    SYS_delete_module,
    SYS_kexec_load,
    SYS_reboot,
    SYS_swapon,
    SYS_swapoff,
    SYS_io_setup,
    SYS_unlinkat,
    SYS_renameat2,
    SYS_linkat,
    SYS_symlinkat,
    SYS_mknodat,
    SYS_mkdirat,
    SYS_fchmodat,
    SYS_fchownat,
    SYS_truncate,
    SYS_setsid,
    SYS_setpgid,
    425 /* io_uring_setup */,
    434 /* pidfd_open */,
    438 /* pidfd_getfd */,
#if defined(__x86_64__)
    SYS_fork,
    SYS_vfork,
    SYS_unlink,
    SYS_rename,
    SYS_renameat,
    SYS_link,
    SYS_symlink,
    SYS_mknod,
    SYS_mkdir,
    SYS_rmdir,
    SYS_chmod,
    SYS_chown,
    SYS_lchown,
    SYS_setrlimit,
#endif
};

const long kSealed[] = {
    SYS_openat, 437 /* openat2 */, SYS_execve,   SYS_execveat, SYS_getdents64, SYS_memfd_create,
#if defined(__x86_64__)
    SYS_open,   SYS_creat,         SYS_getdents,
#endif
};

sock_filter statement(unsigned short code, unsigned k) { return BPF_STMT(code, k); }
sock_filter jump(unsigned short code, unsigned k, unsigned char yes, unsigned char no) {
  return BPF_JUMP(code, k, yes, no);
}

}  // namespace

std::vector<sock_filter> seccomp_program(bool sealed) {
  if (kArch == 0) return {};
  std::vector<sock_filter> p;
  const auto refuse = statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | EPERM);
  p.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, arch)));
  p.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, kArch, 1, 0));
  p.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_KILL_PROCESS));
  p.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, nr)));
#if defined(__x86_64__)
  p.push_back(jump(BPF_JMP | BPF_JGE | BPF_K, 0x40000000u, 0, 1));  // x32 numbers
  p.push_back(refuse);
#endif
  auto refuse_number = [&](long number) {
    p.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, static_cast<unsigned>(number), 0, 1));
    p.push_back(refuse);
  };
  for (long number : kRefused) refuse_number(number);
  if (sealed) {
    for (long number : kSealed) refuse_number(number);
  }
  // clone3 hides its flags behind a pointer: refused so that the C library falls back to clone,
  // which is allowed for threads only.
  p.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, 435, 0, 1));
  p.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ERRNO | ENOSYS));
  p.push_back(jump(BPF_JMP | BPF_JEQ | BPF_K, SYS_clone, 0, 3));
  p.push_back(statement(BPF_LD | BPF_W | BPF_ABS, offsetof(seccomp_data, args)));
  p.push_back(jump(BPF_JMP | BPF_JSET | BPF_K, CLONE_THREAD, 1, 0));
  p.push_back(refuse);
  p.push_back(statement(BPF_RET | BPF_K, SECCOMP_RET_ALLOW));
  return p;
}

FileDescriptor landlock_domain(const std::vector<Path>& readable) {
  long abi = ::syscall(kLandlockCreate, nullptr, 0, LANDLOCK_CREATE_RULESET_VERSION);
  if (abi < 1) return {};
  constexpr __u64 kRead =
      LANDLOCK_ACCESS_FS_READ_FILE | LANDLOCK_ACCESS_FS_READ_DIR | LANDLOCK_ACCESS_FS_EXECUTE;
  landlock_ruleset_attr attributes{};
  attributes.handled_access_fs =
      kRead | LANDLOCK_ACCESS_FS_WRITE_FILE | LANDLOCK_ACCESS_FS_REMOVE_DIR |
      LANDLOCK_ACCESS_FS_REMOVE_FILE | LANDLOCK_ACCESS_FS_MAKE_CHAR | LANDLOCK_ACCESS_FS_MAKE_DIR |
      LANDLOCK_ACCESS_FS_MAKE_REG | LANDLOCK_ACCESS_FS_MAKE_SOCK | LANDLOCK_ACCESS_FS_MAKE_FIFO |
      LANDLOCK_ACCESS_FS_MAKE_BLOCK | LANDLOCK_ACCESS_FS_MAKE_SYM;
  FileDescriptor ruleset(static_cast<int>(
      ::syscall(kLandlockCreate, &attributes, sizeof(attributes.handled_access_fs), 0)));
  if (!ruleset.valid()) return {};
  for (const Path& path : readable) {
    FileDescriptor parent(::open(path.c_str(), O_PATH | O_CLOEXEC));
    if (!parent.valid()) continue;  // not every system has every library folder
    struct stat st {};
    if (::fstat(parent.get(), &st) != 0) continue;
    landlock_path_beneath_attr rule{};
    rule.parent_fd = parent.get();
    rule.allowed_access = S_ISDIR(st.st_mode) ? kRead : kRead & ~LANDLOCK_ACCESS_FS_READ_DIR;
    if (::syscall(kLandlockAdd, ruleset.get(), LANDLOCK_RULE_PATH_BENEATH, &rule, 0) != 0)
      return {};
  }
  return ruleset;
}

bool apply_sandbox(const sock_filter* program, unsigned short length, int landlock_fd) {
  if (::prctl(PR_SET_NO_NEW_PRIVS, 1, 0, 0, 0) != 0) return true;  // kernel without either
  if (landlock_fd >= 0) ::syscall(kLandlockRestrict, landlock_fd, 0);
  if (length == 0) return true;
  sock_fprog filter{length, const_cast<sock_filter*>(program)};
  return ::prctl(PR_SET_SECCOMP, SECCOMP_MODE_FILTER, &filter, 0, 0) == 0;
}

}  // namespace apud
