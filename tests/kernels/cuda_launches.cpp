// Which of the program's CUDA kernels were launched. The linker sends the runtime's registration
// and launches here (--wrap, tests.cmake); with APUD_LAUNCHES=FILE a line a kernel is written there
// as the program ends: "launched NAME" or "left NAME". scripts/gpu-sanitize reads them.
#include <cuda_runtime_api.h>
#include <cxxabi.h>

#include <cstdio>
#include <cstdlib>
#include <map>
#include <memory>
#include <mutex>
#include <string>

namespace {

struct Launches {
  std::mutex mutex;
  struct Kernel {
    std::string name;
    bool launched = false;
  };
  std::map<const void*, Kernel> kernels;       // by the host's function
  std::map<const void*, const void*> handles;  // the host's function by the runtime's handle

  static Launches& all() {
    static auto* launches = new Launches;  // launches may outlive statics
    return *launches;
  }
  void launched(const void* kernel) {
    const std::lock_guard lock(mutex);
    if (auto it = handles.find(kernel); it != handles.end()) kernel = it->second;
    if (auto it = kernels.find(kernel); it != kernels.end()) it->second.launched = true;
  }
};

std::string readable(const char* mangled) {
  int status = 0;
  const std::unique_ptr<char, decltype(&std::free)> name(
      abi::__cxa_demangle(mangled, nullptr, nullptr, &status), std::free);
  return name ? name.get() : mangled;
}

void write() {
  const char* path = std::getenv("APUD_LAUNCHES");
  if (!path) return;
  std::FILE* file = std::fopen(path, "w");
  if (!file) {
    std::perror(path);
    return;
  }
  for (const auto& [host, kernel] : Launches::all().kernels)
    std::fprintf(file, "%s %s\n", kernel.launched ? "launched" : "left", kernel.name.c_str());
  std::fclose(file);
}

}  // namespace

// The names are the linker's.
// NOLINTBEGIN(bugprone-reserved-identifier)
extern "C" {

void __real___cudaRegisterFunction(void** binary, const char* host, char* device, const char* name,
                                   int limit, void* thread, void* block, void* block_size,
                                   void* grid_size, int* warp_size);
cudaError_t __real___cudaGetKernel(cudaKernel_t* handle, const void* host);
cudaError_t __real___cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args,
                                      size_t shared, cudaStream_t stream);
cudaError_t __real_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host,
                                       void** args);

void __wrap___cudaRegisterFunction(void** binary, const char* host, char* device, const char* name,
                                   int limit, void* thread, void* block, void* block_size,
                                   void* grid_size, int* warp_size) {
  Launches& all = Launches::all();
  if (all.kernels.empty()) std::atexit(write);
  all.kernels[host].name = readable(name);
  __real___cudaRegisterFunction(binary, host, device, name, limit, thread, block, block_size,
                                grid_size, warp_size);
}

cudaError_t __wrap___cudaGetKernel(cudaKernel_t* handle, const void* host) {
  const cudaError_t status = __real___cudaGetKernel(handle, host);
  Launches& all = Launches::all();
  const std::lock_guard lock(all.mutex);
  all.handles[*handle] = host;
  return status;
}

cudaError_t __wrap___cudaLaunchKernel(cudaKernel_t kernel, dim3 grid, dim3 block, void** args,
                                      size_t shared, cudaStream_t stream) {
  Launches::all().launched(kernel);
  return __real___cudaLaunchKernel(kernel, grid, block, args, shared, stream);
}

cudaError_t __wrap_cudaLaunchKernelExC(const cudaLaunchConfig_t* config, const void* host,
                                       void** args) {
  Launches::all().launched(host);
  return __real_cudaLaunchKernelExC(config, host, args);
}

}  // extern "C"
// NOLINTEND(bugprone-reserved-identifier)
