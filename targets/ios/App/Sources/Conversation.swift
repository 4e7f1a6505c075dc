import Flashflood
import Foundation
import Observation

/// A conversation with a model: what is on the screen, and the task that makes an answer.
@MainActor
@Observable
final class Conversation {
    struct Turn: Identifiable {
        let id = UUID()
        var message: Message
        var thinking = ""
        var statistics: Statistics?
    }

    enum State: Equatable {
        case closed
        case opening
        case ready
        case prefill(done: Int, total: Int)
        case answering
        case suspended(Suspension)
    }

    private(set) var turns: [Turn] = []
    private(set) var state = State.closed
    private(set) var description: EngineDescription?
    var failure: String?

    var isAnswering: Bool { task != nil }

    private var session: Session?
    private var task: Task<Void, Never>?
    private var isActive = true

    /// Positions of the context: each takes memory, of which a phone has little.
    static let context = 4096

    func open(_ model: LocalModel) async {
        await stop()
        // the old engine's memory goes first
        (session, description, turns, failure) = (nil, nil, [], nil)
        state = .opening
        do {
            let engine = try await Engine.open(model.options(context: Self.context))
            (session, description) = (try engine.session(), try engine.describe())
            setActive(isActive)
            state = .ready
        } catch {
            report(error)
            state = .closed
        }
    }

    func send(_ text: String) {
        guard let session, task == nil, !text.isEmpty else { return }
        failure = nil
        turns.append(Turn(message: Message(.user, text)))
        let request = Request(turns.map(\.message), maxTokens: 2048)
        turns.append(Turn(message: Message(.assistant, "")))
        let answer = turns.count - 1
        state = .answering
        task = Task {
            do {
                for try await event in session.stream(request) { take(event, answer) }
            } catch {
                report(error)
            }
            task = nil
            state = .ready
        }
    }

    /// Ends the answer at its next token and waits for that.
    func stop() async {
        task?.cancel()
        await task?.value
    }

    /// The app goes to the background, where the GPU may not be used, or comes back.
    func setActive(_ isActive: Bool) {
        self.isActive = isActive
        if isActive { session?.resume() } else { session?.suspend() }
    }

    private func take(_ event: Event, _ answer: Int) {
        switch event {
        case .prefill(let done, let total): state = done < total ? .prefill(done: done, total: total) : .answering
        case .thinking(let more):
            state = .answering
            turns[answer].thinking += more
        case .text(let more):
            state = .answering
            turns[answer].message.content += more
        case .toolCall: break  // this app gives no tools
        case .statistics(let statistics): turns[answer].statistics = statistics
        case .suspended(let why): state = .suspended(why)
        case .resumed: state = .answering
        case .done(.context): failure = "The context of \(Self.context) tokens is full."
        case .done: break
        }
    }

    private func report(_ error: any Error) {
        let hint = (error as? LocalizedError)?.recoverySuggestion.map { "\n\($0)" } ?? ""
        failure = error.localizedDescription + hint
    }
}
