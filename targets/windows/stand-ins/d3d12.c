// d3d12.dll: the entry points of Direct3D 12 over the library vkd3d, on the first Vulkan device.
#define COBJMACROS
#define VK_NO_PROTOTYPES
#include <windows.h>
#include <initguid.h>
#include <vulkan/vulkan.h>
#include <vkd3d.h>
#include <d3d12shader.h>

static HRESULT signal_event(HANDLE event)
{
    return SetEvent(event) ? S_OK : E_FAIL;
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
    PFN_vkGetInstanceProcAddr find = (void *)GetProcAddress(vulkan, "vkGetInstanceProcAddr");
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
        .pfn_vkGetInstanceProcAddr = find,
    };
    struct vkd3d_instance *instance;
    HRESULT result = vkd3d_create_instance(&instance_info, &instance);
    if (FAILED(result))
        return result;
    VkInstance vk_instance = vkd3d_instance_get_vk_instance(instance);
    PFN_vkEnumeratePhysicalDevices enumerate = (void *)find(vk_instance, "vkEnumeratePhysicalDevices");
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
