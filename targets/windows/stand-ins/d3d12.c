// d3d12.dll: the entry points of Direct3D 12 over the library vkd3d, on the first Vulkan device.
//
// Direct3D promises that new memory holds zeros, and wgpu clears buffers by copies out of such memory. vkd3d does not keep
// that promise, so memory is zeroed here, on its way from Vulkan. That takes a driver whose memory the processor sees, as
// lavapipe's all is.
#define COBJMACROS
#define VK_NO_PROTOTYPES
#include <windows.h>
#include <string.h>
#include <initguid.h>
#include <vulkan/vulkan.h>
#include <vkd3d.h>
#include <d3d12shader.h>

static HRESULT signal_event(HANDLE event)
{
    return SetEvent(event) ? S_OK : E_FAIL;
}

static PFN_vkGetInstanceProcAddr instance_function;
static PFN_vkGetDeviceProcAddr device_function;

static VkResult VKAPI_CALL allocate_zeros(VkDevice device, const VkMemoryAllocateInfo *info,
                                          const VkAllocationCallbacks *callbacks, VkDeviceMemory *memory)
{
    VkResult result = ((PFN_vkAllocateMemory)device_function(device, "vkAllocateMemory"))(device, info, callbacks, memory);
    void *bytes;
    if (result == VK_SUCCESS &&
        ((PFN_vkMapMemory)device_function(device, "vkMapMemory"))(device, *memory, 0, VK_WHOLE_SIZE, 0, &bytes) == VK_SUCCESS) {
        memset(bytes, 0, info->allocationSize);
        ((PFN_vkUnmapMemory)device_function(device, "vkUnmapMemory"))(device, *memory);
    }
    return result;
}

static PFN_vkVoidFunction VKAPI_CALL find_device_function(VkDevice device, const char *name)
{
    return strcmp(name, "vkAllocateMemory") ? device_function(device, name) : (PFN_vkVoidFunction)allocate_zeros;
}

static PFN_vkVoidFunction VKAPI_CALL find_function(VkInstance instance, const char *name)
{
    PFN_vkVoidFunction found = instance_function(instance, name);
    if (!found || strcmp(name, "vkGetDeviceProcAddr"))
        return found;
    device_function = (PFN_vkGetDeviceProcAddr)found;
    return (PFN_vkVoidFunction)find_device_function;
}

HRESULT WINAPI D3D12GetDebugInterface(REFIID iid, void **debug)
{
    return (HRESULT)0x887a002d; // DXGI_ERROR_SDK_COMPONENT_MISSING
}

HRESULT WINAPI D3D12EnableExperimentalFeatures(UINT count, const IID *features, void *settings, UINT *sizes)
{
    return E_NOINTERFACE;
}

HRESULT WINAPI D3D12CreateDevice(IUnknown *adapter, D3D_FEATURE_LEVEL level, REFIID iid, void **device)
{
    HMODULE vulkan = LoadLibraryA("vulkan-1.dll");
    if (!vulkan)
        return E_FAIL;
    instance_function = (void *)GetProcAddress(vulkan, "vkGetInstanceProcAddr");
    static const struct vkd3d_application_info application = {
        .type = VKD3D_STRUCTURE_TYPE_APPLICATION_INFO,
        .api_version = VKD3D_API_VERSION_1_2,
    };
    static const char *const extensions[] = {"VK_KHR_get_physical_device_properties2"};
    struct vkd3d_optional_instance_extensions_info optional = {
        .type = VKD3D_STRUCTURE_TYPE_OPTIONAL_INSTANCE_EXTENSIONS_INFO,
        .next = &application,
        .extensions = extensions,
        .extension_count = 1,
    };
    struct vkd3d_instance_create_info instance_info = {
        .type = VKD3D_STRUCTURE_TYPE_INSTANCE_CREATE_INFO,
        .next = &optional,
        .pfn_signal_event = signal_event,
        .wchar_size = sizeof(WCHAR),
        .pfn_vkGetInstanceProcAddr = find_function,
    };
    struct vkd3d_instance *instance;
    HRESULT result = vkd3d_create_instance(&instance_info, &instance);
    if (FAILED(result))
        return result;
    VkInstance vk_instance = vkd3d_instance_get_vk_instance(instance);
    PFN_vkEnumeratePhysicalDevices enumerate = (void *)instance_function(vk_instance, "vkEnumeratePhysicalDevices");
    uint32_t count = 1;
    VkPhysicalDevice first = 0;
    enumerate(vk_instance, &count, &first);
    struct vkd3d_device_create_info device_info = {
        .type = VKD3D_STRUCTURE_TYPE_DEVICE_CREATE_INFO,
        .minimum_feature_level = level,
        .instance = instance,
        .vk_physical_device = first,
        .parent = adapter,
    };
    result = vkd3d_create_device(&device_info, iid, device);
    vkd3d_instance_decref(instance);
    return result;
}

HRESULT WINAPI D3D12CreateRootSignatureDeserializer(const void *data, SIZE_T size, REFIID iid, void **made)
{
    return vkd3d_create_root_signature_deserializer(data, size, iid, made);
}

HRESULT WINAPI D3D12CreateVersionedRootSignatureDeserializer(const void *data, SIZE_T size, REFIID iid, void **made)
{
    return vkd3d_create_versioned_root_signature_deserializer(data, size, iid, made);
}

HRESULT WINAPI D3D12SerializeRootSignature(const D3D12_ROOT_SIGNATURE_DESC *description, D3D_ROOT_SIGNATURE_VERSION version,
                                           ID3DBlob **blob, ID3DBlob **errors)
{
    return vkd3d_serialize_root_signature(description, version, blob, errors);
}

HRESULT WINAPI D3D12SerializeVersionedRootSignature(const D3D12_VERSIONED_ROOT_SIGNATURE_DESC *description, ID3DBlob **blob,
                                                    ID3DBlob **errors)
{
    return vkd3d_serialize_versioned_root_signature(description, blob, errors);
}
