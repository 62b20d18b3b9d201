// Lets a build of torch without CUDA differentiate fake CUDA tensors: autograd asks for the device and its streams,
// and one device that does nothing is all that it needs. `exchange` puts the pretence in place, or the truth again.
#include <ATen/detail/CUDAHooksInterface.h>
#include <c10/core/impl/DeviceGuardImplInterface.h>

#include <utility>

namespace {
constexpr auto CUDA = c10::DeviceType::CUDA;

struct Hooks final : at::CUDAHooksInterface {
  bool isBuilt() const override { return true; }
  bool hasPrimaryContext(c10::DeviceIndex) const override { return false; }
};

struct Guard final : c10::impl::NoOpDeviceGuardImpl<CUDA> {
  c10::Device getDevice() const override { return {CUDA, 0}; }
  c10::Device exchangeDevice(c10::Device) const override { return {CUDA, 0}; }
  c10::Stream getStream(c10::Device device) const noexcept override {
    return c10::Stream(c10::Stream::DEFAULT, device);
  }
  c10::Stream exchangeStream(c10::Stream stream) const noexcept override { return stream; }
};

Hooks hooks;
Guard guard;
const void* other_methods = *reinterpret_cast<const void* const*>(&hooks);  // torch keeps one object, so its methods go
const c10::impl::DeviceGuardImplInterface* other_guard = &guard;
}  // namespace

extern "C" void exchange() {
  auto& torchs = const_cast<at::CUDAHooksInterface&>(at::detail::getCUDAHooks());
  std::swap(*reinterpret_cast<const void**>(&torchs), other_methods);
  other_guard = c10::impl::device_guard_impl_registry[static_cast<size_t>(CUDA)].exchange(other_guard);
}
