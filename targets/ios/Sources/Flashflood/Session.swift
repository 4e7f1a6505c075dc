import CFlashflood
import Dispatch
import Foundation

/// A conversation on an engine. It makes one answer at a time; another one waits for it.
public final class Session: Sendable {
    /// Kept, because the session's pointer is good as long as the engine is open.
    private let engine: Engine
    private let handle: Handle
    /// What blocks runs here, one after the other.
    private let queue = DispatchQueue(label: "flashflood.session", qos: .userInitiated)

    init(engine: Engine, handle: Handle) {
        (self.engine, self.handle) = (engine, handle)
    }

    deinit {
        flashflood_session_close(handle.pointer)
    }

    /// The answer to a conversation, event by event:
    ///
    ///     for try await event in session.stream([Message(.user, "Hello")]) {
    ///         if case .text(let text) = event { print(text, terminator: "") }
    ///     }
    ///
    /// A task that is cancelled, and a loop that is left, end the answer at its next token.
    public func stream(_ messages: [Message]) -> AsyncThrowingStream<Event, any Error> {
        stream(Request(messages))
    }

    /// As `stream(_:)`, with tools and sampling.
    public func stream(_ request: Request) -> AsyncThrowingStream<Event, any Error> {
        AsyncThrowingStream { events in
            let answer = Answer(events, handle)
            events.onTermination = { end in
                // after the last event there is nothing to cancel
                if case .cancelled = end { answer.cancel() }
            }
            // the queue keeps the session until the answer is done
            queue.async { self.run(request, answer) }
        }
    }

    private func run(_ request: Request, _ answer: Answer) {
        guard answer.begin() else { return }
        defer { answer.end() }
        do {
            let json = try jsonText(request)
            // kept by `answer`, which lives until the call returns
            let context = Unmanaged.passUnretained(answer).toOpaque()
            let _: Bool = try checked { error in
                let told: flashflood_event = { context, json in
                    guard let context, let json else { return }
                    Unmanaged<Answer>.fromOpaque(context).takeUnretainedValue().take(json)
                }
                return flashflood_session_send(handle.pointer, json, told, context, error) == 0 ? true : nil
            }
            answer.events.finish()
        } catch {
            answer.events.finish(throwing: error)
        }
    }

    /// Ends the answer that is being made at its next token.
    public func cancel() {
        flashflood_session_cancel(handle.pointer)
    }

    /// Pauses at the next token, and answers to come with it: before the app goes to the background, where the GPU may not
    /// be used.
    public func suspend() {
        flashflood_session_suspend(handle.pointer)
    }

    /// Goes on after `suspend`.
    public func resume() {
        flashflood_session_resume(handle.pointer)
    }

    /// Keeps the state of the conversation in `folder`, after the answer that is being made.
    public func save(to folder: URL) async throws {
        let path = folder.path(percentEncoded: false)
        try await waiting { handle, error in flashflood_session_save(handle, path, error) }
    }

    /// Takes up the state that `folder` has of the beginning of a conversation; without one it is computed.
    public func restore(from folder: URL, for request: Request) async throws {
        let (path, json) = (folder.path(percentEncoded: false), try jsonText(request))
        try await waiting { handle, error in flashflood_session_restore(handle, path, json, error) }
    }

    private func waiting(_ call: @escaping @Sendable (OpaquePointer, ErrorSlot) -> Int32) async throws {
        try await withCheckedThrowingContinuation { (done: CheckedContinuation<Void, any Error>) in
            queue.async {
                done.resume(with: Result { _ = try checked { call(self.handle.pointer, $0) == 0 ? true : nil } })
            }
        }
    }
}

/// An answer that is being made, between the library's thread and whoever listens.
private final class Answer: @unchecked Sendable {
    let events: AsyncThrowingStream<Event, any Error>.Continuation
    private let handle: Handle
    private let lock = NSLock()
    private var isCancelled = false
    private var isRunning = false

    init(_ events: AsyncThrowingStream<Event, any Error>.Continuation, _ handle: Handle) {
        (self.events, self.handle) = (events, handle)
    }

    /// Whether it is still wanted.
    func begin() -> Bool {
        lock.withLock {
            isRunning = !isCancelled
            return isRunning
        }
    }

    func end() {
        lock.withLock { isRunning = false }
    }

    func cancel() {
        lock.withLock {
            isCancelled = true
            // else another answer of the session may be running
            if isRunning { flashflood_session_cancel(handle.pointer) }
        }
    }

    /// On the thread of the call.
    func take(_ json: UnsafePointer<CChar>) {
        if lock.withLock({ isCancelled }) {
            // it may have been cancelled when the call had not begun and there was nothing to cancel
            flashflood_session_cancel(handle.pointer)
            return
        }
        do {
            for event in try Event.decoded(Data(bytes: json, count: strlen(json))) { events.yield(event) }
        } catch {
            events.finish(throwing: error)
        }
    }
}
