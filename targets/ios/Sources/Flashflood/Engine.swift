import CFlashflood
import Dispatch
import Foundation

/// How a model is opened. What is `nil` is left to the library.
public struct EngineOptions: Sendable, Codable, Equatable {
    /// Folder of a snapshot or a pack, or a GGUF file; `nil` is the small model inside the library.
    public var model: String?
    /// `auto`, `gpu` or `cpu`.
    public var device: String?
    /// Positions that the context has room for.
    public var context: Int?
    /// How keys and values of the context are kept: `f32`, `f16`, `q8`, `tq4` or `k8v4`.
    public var kv: String?
    /// Rotary positions beyond what the model was trained for: `auto` as its configuration says, `none`, or YaRN as its card
    /// recommends, such as `yarn:4`.
    public var ropeScaling: String?
    /// Memory for experts: `auto`, `all`, or a size such as `2GB`.
    public var expertCache: String?
    /// Percent of the time to work, 1 to 100.
    public var power: Int?

    public init(
        model: URL? = nil, device: String? = nil, context: Int? = nil, kv: String? = nil, ropeScaling: String? = nil,
        expertCache: String? = nil, power: Int? = nil
    ) {
        self.model = model?.path(percentEncoded: false)
        (self.device, self.context, self.kv, self.ropeScaling) = (device, context, kv, ropeScaling)
        (self.expertCache, self.power) = (expertCache, power)
    }

    enum CodingKeys: String, CodingKey {
        case model, device, context, kv, power
        case ropeScaling = "rope_scaling"
        case expertCache = "expert_cache"
    }
}

/// Where memory goes, in bytes.
public struct MemoryPlan: Sendable, Codable, Equatable {
    /// Weights that every token needs.
    public let resident: UInt64
    /// Slots for routed experts.
    public let experts: UInt64
    /// How many slots there are, how many would hold every expert, and the bytes of one.
    public let slots, allSlots: Int
    public let slotBytes: UInt64
    /// KV caches for the whole context, recurrent state, activations of a step.
    public let kv, state, activations: UInt64
    /// Positions of the context.
    public let context: Int
    /// What this app could still allocate when the plan was made.
    public let available: UInt64

    /// All parts.
    public var total: UInt64 { resident + experts + kv + state + activations }
    /// Share of the experts that memory has room for; the rest is read from the disk again and again.
    public var expertShare: Double { allSlots == 0 ? 1 : min(1, Double(slots) / Double(allSlots)) }

    enum CodingKeys: String, CodingKey {
        case resident, experts, slots, kv, state, activations, context, available
        case allSlots = "all_slots"
        case slotBytes = "slot_bytes"
    }
}

/// What an engine is.
public struct EngineDescription: Sendable, Codable, Equatable {
    public let model: String?
    public let device: String
    public let context: Int
    public let memory: MemoryPlan
}

/// A loaded model. It is closed when the last of its sessions and of the references to it is gone.
public final class Engine: Sendable {
    let handle: Handle

    /// The library's version.
    public static var version: String { String(cString: flashflood_version()) }

    private init(_ handle: Handle) {
        self.handle = handle
    }

    deinit {
        // no answer is being made: answers keep their session, and sessions their engine
        flashflood_engine_close(handle.pointer)
    }

    /// Loads a model, which takes seconds to minutes, on a thread of its own.
    public static func open(_ options: EngineOptions = EngineOptions()) async throws -> Engine {
        let json = try jsonText(options)
        return try await blocking { Engine(Handle(try checked { flashflood_engine_open(json, $0) })) }
    }

    /// Where memory would go; nothing is loaded. An error when the model cannot be read, or would not fit.
    public static func memoryPlan(_ options: EngineOptions) async throws -> MemoryPlan {
        let json = try jsonText(options)
        return try await blocking {
            let plan = taken(try checked { flashflood_memory_plan(json, $0) })
            return try JSONDecoder().decode(MemoryPlan.self, from: Data(plan.utf8))
        }
    }

    /// Runs every kernel on this device and compares it with the processor; JSON as of `flashflood check --json`.
    public static func check(_ options: EngineOptions = EngineOptions()) async throws -> JSON {
        let json = try jsonText(options)
        return try await blocking {
            let found = taken(try checked { flashflood_check(json, $0) })
            return try JSONDecoder().decode(JSON.self, from: Data(found.utf8))
        }
    }

    /// Device, model and memory plan.
    public func describe() throws -> EngineDescription {
        let text = taken(try checked { flashflood_engine_describe(handle.pointer, $0) })
        return try JSONDecoder().decode(EngineDescription.self, from: Data(text.utf8))
    }

    /// A new conversation. What conversations have in common is computed once.
    public func session() throws -> Session {
        Session(engine: self, handle: Handle(try checked { flashflood_session_new(handle.pointer, $0) }))
    }
}

/// A pointer of the library. Its functions may be called from any thread, those that may not at the same time say so.
struct Handle: @unchecked Sendable {
    let pointer: OpaquePointer

    init(_ pointer: OpaquePointer) {
        self.pointer = pointer
    }
}

/// Runs what takes long outside of Swift's few threads, which must never wait.
func blocking<T: Sendable>(_ work: @escaping @Sendable () throws -> T) async throws -> T {
    try await withCheckedThrowingContinuation { done in
        DispatchQueue.global(qos: .userInitiated).async { done.resume(with: Result(catching: work)) }
    }
}
