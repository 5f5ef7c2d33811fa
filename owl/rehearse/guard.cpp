// SPDX-License-Identifier: Apache-2.0
// `cuda` as a device that computes nothing, for fake tensors in a torch that was built for CPUs.
// torch asks a device for guards (which device and stream are current) and hooks (how many devices
// there are, their generators) even where no kernel runs; both are registered when this is loaded.

#include <ATen/CPUGeneratorImpl.h>
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

namespace c10::impl {

struct NothingGuard final : public NoOpDeviceGuardImpl<DeviceType::CUDA> {
  static Device only() { return Device(DeviceType::CUDA, 0); }
  static Stream only_stream() { return Stream(Stream::DEFAULT, only()); }
  Device exchangeDevice(Device) const override { return only(); }
  Device getDevice() const override { return only(); }
  Stream getStream(Device) const noexcept override { return only_stream(); }
  Stream getNewStream(Device, int) const override { return only_stream(); }
  Stream exchangeStream(Stream) const noexcept override { return only_stream(); }
  DeviceIndex deviceCount() const noexcept override { return 1; }
};
C10_REGISTER_GUARD_IMPL(CUDA, NothingGuard)

}  // namespace c10::impl

namespace at {

// Registered under the name that torch looks for.
struct CUDAHooks final : public CUDAHooksInterface {
  explicit CUDAHooks(CUDAHooksArgs) {}
  static const Generator& generator() {
    static Generator only = make_generator<CPUGeneratorImpl>(0);
    return only;
  }
  void init() const override {}
  bool hasCUDA() const override { return true; }
  bool isBuilt() const override { return true; }
  bool isAvailable() const override { return true; }
  bool hasPrimaryContext(DeviceIndex) const override { return true; }
  int getNumGPUs() const override { return 1; }
  DeviceIndex deviceCount() const override { return 1; }
  DeviceIndex current_device() const override { return 0; }
  DeviceIndex getCurrentDevice() const override { return 0; }
  void setCurrentDevice(DeviceIndex) const override {}
  DeviceIndex exchangeDevice(DeviceIndex) const override { return 0; }
  DeviceIndex maybeExchangeDevice(DeviceIndex) const override { return 0; }
  Generator getNewGenerator(DeviceIndex = -1) const override { return generator(); }
  const Generator& getDefaultGenerator(DeviceIndex = -1) const override { return generator(); }
};
REGISTER_CUDA_HOOKS(CUDAHooks)

}  // namespace at
