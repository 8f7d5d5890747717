// A CUDA driver without a GPU, for checking that every kernel compiles: memory is the host's, launches do nothing, and
// it claims to be an H100. Each module that is loaded is written to the folder in STAND_IN_PTX. Results are garbage.
// Types are reduced to their sizes; meanings: CUDA Driver API reference.
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

typedef int Result;
typedef unsigned long long Address;
typedef void *Handle;

enum { SUCCESS = 0, OUT_OF_MEMORY = 2, INVALID_DEVICE = 101 };

static Handle const CONTEXT = (Handle)0x1000;
static long launches;
static int modules;

static Result give(Handle *handle) {
  *handle = malloc(16);
  return *handle ? SUCCESS : OUT_OF_MEMORY;
}

// The driver, the device

Result cuInit(unsigned flags) { return SUCCESS; }
Result cuDriverGetVersion(int *version) { *version = 13000; return SUCCESS; }
Result cuDeviceGet(int *device, int ordinal) { *device = ordinal; return ordinal ? INVALID_DEVICE : SUCCESS; }
Result cuDeviceGetCount(int *count) { *count = 1; return SUCCESS; }
Result cuDeviceGetName(char *name, int length, int device) {
  snprintf(name, length, "NVIDIA H100 (stand-in)");
  return SUCCESS;
}
Result cuDeviceGetUuid_v2(char *uuid, int device) { memset(uuid, 7, 16); return SUCCESS; }
Result cuDeviceGetUuid(char *uuid, int device) { return cuDeviceGetUuid_v2(uuid, device); }
Result cuDeviceGetPCIBusId(char *id, int length, int device) { snprintf(id, length, "0000:01:00.0"); return SUCCESS; }
Result cuDeviceTotalMem_v2(size_t *bytes, int device) { *bytes = 80ull << 30; return SUCCESS; }
Result cuDeviceGetAttribute(int *value, int attribute, int device) {
  static const struct { int attribute, value; } H100[] = {
      {1, 1024},       {2, 1024},    {3, 1024},     {4, 64},        // threads per block; block dimensions
      {5, 2147483647}, {6, 65535},   {7, 65535},                    // grid dimensions
      {8, 49152},      {97, 232448}, {81, 233472},                  // shared memory: block, opt-in, multiprocessor
      {10, 32},        {12, 65536},                                 // warp, registers per block
      {13, 1980000},   {16, 132},    {39, 2048},                    // kHz, multiprocessors, threads of each
      {36, 2619000},   {37, 5120},   {38, 52428800},                // memory: kHz, bus width, L2
      {75, 9},         {76, 0},                                     // compute capability
  };
  *value = 1;
  for (size_t i = 0; i < sizeof H100 / sizeof *H100; i++)
    if (H100[i].attribute == attribute) *value = H100[i].value;
  return SUCCESS;
}

// Contexts, streams, events

Result cuDevicePrimaryCtxRetain(Handle *context, int device) { *context = CONTEXT; return SUCCESS; }
Result cuDevicePrimaryCtxRelease_v2(int device) { return SUCCESS; }
Result cuCtxSetCurrent(Handle context) { return SUCCESS; }
Result cuCtxGetCurrent(Handle *context) { *context = CONTEXT; return SUCCESS; }
Result cuCtxSynchronize(void) { return SUCCESS; }
Result cuCtxGetStreamPriorityRange(int *least, int *greatest) { *least = 0; *greatest = -5; return SUCCESS; }
Result cuStreamCreate(Handle *stream, unsigned flags) { return give(stream); }
Result cuStreamCreateWithPriority(Handle *stream, unsigned flags, int priority) { return give(stream); }
Result cuStreamDestroy_v2(Handle stream) { free(stream); return SUCCESS; }
Result cuStreamSynchronize(Handle stream) { return SUCCESS; }
Result cuStreamWaitEvent(Handle stream, Handle event, unsigned flags) { return SUCCESS; }
Result cuStreamIsCapturing(Handle stream, int *capturing) { *capturing = 0; return SUCCESS; }
// A launch counts as 50 ms, so that measurements differ from zero.
Result cuEventCreate(Handle *event, unsigned flags) { return give(event); }
Result cuEventDestroy_v2(Handle event) { free(event); return SUCCESS; }
Result cuEventRecord(Handle event, Handle stream) { *(double *)event = launches * 50.0; return SUCCESS; }
Result cuEventSynchronize(Handle event) { return SUCCESS; }
Result cuEventQuery(Handle event) { return SUCCESS; }
Result cuEventElapsedTime_v2(float *ms, Handle from, Handle to) {
  *ms = *(double *)to - *(double *)from + 0.001;
  return SUCCESS;
}
Result cuEventElapsedTime(float *ms, Handle from, Handle to) { return cuEventElapsedTime_v2(ms, from, to); }

// Memory

Result cuMemAlloc_v2(Address *address, size_t bytes) {
  *address = (Address)aligned_alloc(4096, (bytes + 4095) & ~4095ull);
  return *address ? SUCCESS : OUT_OF_MEMORY;
}
Result cuMemAllocAsync(Address *address, size_t bytes, Handle stream) { return cuMemAlloc_v2(address, bytes); }
Result cuMemFree_v2(Address address) { free((void *)address); return SUCCESS; }
Result cuMemFreeAsync(Address address, Handle stream) { return cuMemFree_v2(address); }
Result cuMemHostAlloc(Handle *memory, size_t bytes, unsigned flags) {
  *memory = malloc(bytes);
  return *memory ? SUCCESS : OUT_OF_MEMORY;
}
Result cuMemAllocHost_v2(Handle *memory, size_t bytes) { return cuMemHostAlloc(memory, bytes, 0); }
Result cuMemFreeHost(Handle memory) { free(memory); return SUCCESS; }
Result cuMemGetInfo_v2(size_t *available, size_t *total) { *available = 79ull << 30; *total = 80ull << 30; return SUCCESS; }
static Result copy(Address to, Address from, size_t bytes) {
  memcpy((void *)to, (void *)from, bytes);
  return SUCCESS;
}
Result cuMemcpyHtoDAsync_v2(Address to, Address from, size_t bytes, Handle stream) { return copy(to, from, bytes); }
Result cuMemcpyDtoHAsync_v2(Address to, Address from, size_t bytes, Handle stream) { return copy(to, from, bytes); }
Result cuMemcpyDtoDAsync_v2(Address to, Address from, size_t bytes, Handle stream) { return copy(to, from, bytes); }
Result cuMemcpyHtoD_v2(Address to, Address from, size_t bytes) { return copy(to, from, bytes); }
Result cuMemcpyDtoH_v2(Address to, Address from, size_t bytes) { return copy(to, from, bytes); }
Result cuMemsetD8Async(Address address, unsigned char value, size_t bytes, Handle stream) {
  memset((void *)address, value, bytes);
  return SUCCESS;
}
typedef struct {
  size_t x_bytes, y;
  int memory_type;
  void *host;
  Address device;
  Handle array;
  size_t pitch;
} Side;
typedef struct {
  Side from, to;
  size_t width_bytes, height;
} Copy2D;
Result cuMemcpy2DAsync_v2(const Copy2D *plan, Handle stream) {
  const Side *from = &plan->from, *to = &plan->to;
  char *source = from->memory_type == 1 ? from->host : (char *)from->device;
  char *target = to->memory_type == 1 ? to->host : (char *)to->device;
  for (size_t row = 0; row < plan->height; row++)
    memcpy(target + row * to->pitch, source + row * from->pitch, plan->width_bytes);
  return SUCCESS;
}

// Kernels

Result cuModuleLoadData(Handle *module, const void *ptx) {
  const char *folder = getenv("STAND_IN_PTX");
  if (folder) {
    char name[4096];
    snprintf(name, sizeof name, "%s/%05d.ptx", folder, __sync_fetch_and_add(&modules, 1));
    FILE *file = fopen(name, "w");
    if (!file || fputs(ptx, file) < 0 || fclose(file)) {
      perror(name);
      exit(1);
    }
  }
  return give(module);
}
Result cuModuleUnload(Handle module) { free(module); return SUCCESS; }
Result cuModuleGetFunction(Handle *function, Handle module, const char *name) { return give(function); }
Result cuFuncSetAttribute(Handle function, int attribute, int value) { return SUCCESS; }
Result cuFuncGetAttribute(int *value, int attribute, Handle function) { *value = 64; return SUCCESS; }
Result cuLaunchKernel(Handle function, unsigned grid_x, unsigned grid_y, unsigned grid_z, unsigned block_x,
                      unsigned block_y, unsigned block_z, unsigned shared_bytes, Handle stream, void **parameters,
                      void **extra) {
  launches++;
  return SUCCESS;
}
Result cuLaunchKernelEx(const void *config, Handle function, void **parameters, void **extra) {
  launches++;
  return SUCCESS;
}
Result cuLaunchHostFunc(Handle stream, void (*function)(void *), void *data) { function(data); return SUCCESS; }
Result cuTensorMapEncodeTiled(Handle map) { return SUCCESS; }
Result cuTensorMapEncodeIm2col(Handle map) { return SUCCESS; }

Result cuGetErrorName(Result error, const char **name) { *name = "STAND_IN_ERROR"; return SUCCESS; }
Result cuGetErrorString(Result error, const char **text) { *text = "an error of the stand-in driver"; return SUCCESS; }

__attribute__((destructor)) static void report(void) {
  fprintf(stderr, "stand-in driver: %d modules loaded, %ld launches\n", modules, launches);
}
