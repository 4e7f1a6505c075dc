import Flashflood
import SwiftUI

/// A conversation with one model.
struct ChatView: View {
    let model: LocalModel
    let conversation: Conversation

    @State private var text = ""
    @State private var heat = ProcessInfo.processInfo.thermalState

    var body: some View {
        VStack(spacing: 0) {
            ScrollView {
                LazyVStack(alignment: .leading, spacing: 12) {
                    ForEach(conversation.turns) { TurnView(turn: $0) }
                }
                .padding()
            }
            .defaultScrollAnchor(.bottom)
            status.padding(.horizontal)
            HStack {
                TextField("Message", text: $text, axis: .vertical).lineLimit(1...6).textFieldStyle(.roundedBorder)
                if conversation.isAnswering {
                    Button("Stop", systemImage: "stop.circle.fill") { Task { await conversation.stop() } }
                } else {
                    Button("Send", systemImage: "arrow.up.circle.fill") {
                        conversation.send(text)
                        text = ""
                    }
                    .disabled(text.isEmpty || conversation.state != .ready)
                }
            }
            .labelStyle(.iconOnly)
            .font(.title2)
            .padding()
        }
        .navigationTitle(model.name)
        .navigationBarTitleDisplayMode(.inline)
        .task(id: model) { await conversation.open(model) }
        .task {
            for await _ in NotificationCenter.default.notifications(named: ProcessInfo.thermalStateDidChangeNotification)
                .map({ _ in () })
            {
                heat = ProcessInfo.processInfo.thermalState
            }
        }
    }

    private var status: some View {
        VStack(alignment: .leading) {
            if let failure = conversation.failure { Text(failure).foregroundStyle(.red) }
            HStack {
                Text(words)
                Spacer()
                Label(heat.words, systemImage: "thermometer.medium").foregroundStyle(heat == .nominal ? .secondary : .primary)
            }
            .foregroundStyle(.secondary)
        }
        .font(.caption)
    }

    private var words: String {
        switch conversation.state {
        case .closed: "no model is open"
        case .opening: "opening"
        case .ready: conversation.description?.device ?? "ready"
        case .prefill(let done, let total): "reading \(done) of \(total) tokens"
        case .answering: "answering"
        case .suspended(.thermal): "paused: the device is too hot"
        case .suspended(.memory): "paused: the system needs memory"
        case .suspended: "paused"
        }
    }
}

private struct TurnView: View {
    let turn: Conversation.Turn

    var body: some View {
        VStack(alignment: .leading, spacing: 4) {
            Text(turn.message.role == .user ? "You" : "Model").font(.caption.bold()).foregroundStyle(.secondary)
            if !turn.thinking.isEmpty {
                DisclosureGroup("Thoughts") { Text(turn.thinking).font(.callout).foregroundStyle(.secondary) }
            }
            Text(turn.message.content).textSelection(.enabled)
            if let statistics = turn.statistics {
                Text(statistics.words).font(.caption2.monospacedDigit()).foregroundStyle(.secondary)
            }
        }
        .frame(maxWidth: .infinity, alignment: .leading)
    }
}

extension Statistics {
    /// One line for people.
    var words: String {
        let speed = tokensPerSecond.formatted(.number.precision(.fractionLength(1)))
        let prompt = prefillSeconds.formatted(.number.precision(.fractionLength(1)))
        let asked = expertHits + expertMisses
        let hits = asked == 0 ? "" : ", \(100 * expertHits / asked) % of experts in memory"
        return "\(tokens) tokens, \(speed) a second; prompt \(promptTokens) tokens in \(prompt) s\(hits)"
    }
}

extension ProcessInfo.ThermalState {
    var words: String {
        switch self {
        case .nominal: "cool"
        case .fair: "warm"
        case .serious: "hot"
        case .critical: "too hot"
        @unknown default: "unknown"
        }
    }
}
