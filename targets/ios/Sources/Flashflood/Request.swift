/// A message of a conversation, as OpenAI's chat completions have it.
public struct Message: Sendable, Equatable, Codable {
    public enum Role: String, Sendable, Codable {
        case system, user, assistant, tool
    }

    public var role: Role
    public var content: String
    /// Which call a message of a tool answers.
    public var toolCallID: String?
    /// The calls of an assistant's message, in OpenAI's form.
    public var toolCalls: [JSON]?

    public init(_ role: Role, _ content: String, toolCallID: String? = nil, toolCalls: [JSON]? = nil) {
        (self.role, self.content, self.toolCallID, self.toolCalls) = (role, content, toolCallID, toolCalls)
    }

    enum CodingKeys: String, CodingKey {
        case role, content
        case toolCallID = "tool_call_id"
        case toolCalls = "tool_calls"
    }
}

/// What is asked: the whole conversation, of which nothing is computed that is known already.
public struct Request: Sendable, Equatable, Encodable {
    public var messages: [Message]
    /// Tools in OpenAI's form: `{"type": "function", "function": {..}}`.
    public var tools: [JSON]?
    public var maxTokens: Int?
    public var temperature: Double?
    public var topP: Double?
    public var seed: UInt64?
    public var stop: [String]?

    public init(_ messages: [Message], tools: [JSON]? = nil, maxTokens: Int? = nil, temperature: Double? = nil) {
        (self.messages, self.tools, self.maxTokens, self.temperature) = (messages, tools, maxTokens, temperature)
    }

    enum CodingKeys: String, CodingKey {
        case messages, tools, temperature, seed, stop
        case maxTokens = "max_tokens"
        case topP = "top_p"
    }
}
