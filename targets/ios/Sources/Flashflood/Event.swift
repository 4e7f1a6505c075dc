import Foundation

/// What happens while an answer is made.
public enum Event: Sendable, Equatable {
    /// Tokens of the prompt that are done.
    case prefill(done: Int, total: Int)
    /// More of what the model thinks before it answers.
    case thinking(String)
    /// More of the answer.
    case text(String)
    /// A call of a tool, whole.
    case toolCall(ToolCall)
    /// Nothing is computed for now.
    case suspended(Suspension)
    /// It goes on.
    case resumed
    /// What it took; before `done`.
    case statistics(Statistics)
    /// The last event.
    case done(Finish)
}

/// A call of a tool.
public struct ToolCall: Sendable, Equatable, Codable {
    public let id: String
    public let name: String
    public let arguments: JSON
}

/// Why nothing is computed.
public enum Suspension: String, Sendable {
    /// The device is too hot.
    case thermal
    /// The system needs memory.
    case memory
    /// The app asked for it: `Session.suspend`.
    case host
    /// A reason that this wrapper does not know.
    case other
}

/// Why an answer ended.
public enum Finish: String, Sendable {
    /// The model ended its turn, or a stop string came.
    case stop
    /// `maxTokens` are made.
    case length
    /// The context has no room for more.
    case context
    /// It was cancelled.
    case cancelled
    /// A reason that this wrapper does not know.
    case other
}

/// What an answer took.
public struct Statistics: Sendable, Equatable, Codable {
    /// Tokens of the prompt, and those of them whose state was there already.
    public let promptTokens, reusedTokens: Int
    /// Tokens made, and those of them that were thoughts.
    public let tokens, thinkingTokens: Int
    public let prefillSeconds, decodeSeconds: Double
    /// Experts that were in memory, that were read, and the bytes of those.
    public let expertHits, expertMisses, expertBytesRead: UInt64

    /// Tokens a second, after the first.
    public var tokensPerSecond: Double { decodeSeconds > 0 ? Double(max(0, tokens - 1)) / decodeSeconds : 0 }

    enum CodingKeys: String, CodingKey {
        case tokens
        case promptTokens = "prompt_tokens"
        case reusedTokens = "reused_tokens"
        case thinkingTokens = "thinking_tokens"
        case prefillSeconds = "prefill_seconds"
        case decodeSeconds = "decode_seconds"
        case expertHits = "expert_hits"
        case expertMisses = "expert_misses"
        case expertBytesRead = "expert_bytes_read"
    }
}

/// An event as the library writes it.
private struct EventJSON: Decodable {
    let type: String
    let done, total: Int?
    let text, reason, finish, id, name, message, hint: String?
    let arguments: JSON?
    let statistics: Statistics?
}

extension Event {
    /// The events that a JSON text of the library stands for: none for a type that this wrapper does not know.
    static func decoded(_ json: Data) throws -> [Event] {
        let event = try JSONDecoder().decode(EventJSON.self, from: json)
        switch event.type {
        case "prefill": return [.prefill(done: event.done ?? 0, total: event.total ?? 0)]
        case "thinking": return [.thinking(event.text ?? "")]
        case "text": return [.text(event.text ?? "")]
        case "tool_call":
            let arguments = event.arguments ?? .object([:])
            return [.toolCall(ToolCall(id: event.id ?? "", name: event.name ?? "", arguments: arguments))]
        case "suspended": return [.suspended(Suspension(rawValue: event.reason ?? "") ?? .other)]
        case "resumed": return [.resumed]
        case "done":
            let finish = Event.done(Finish(rawValue: event.finish ?? "") ?? .other)
            return event.statistics.map { [.statistics($0), finish] } ?? [finish]
        case "error":
            throw FlashfloodError(event.hint.map { "\(event.message ?? "") (hint: \($0))" } ?? event.message ?? "")
        default: return []
        }
    }
}
