// The wrapper against the stand-in of the library: check-wrapper.sh compiles both together.
import Foundation

@_silgen_name("stand_in_left") func left() -> Int32
@_silgen_name("stand_in_tokens") func tokensMade() -> Int32

func expect(_ isTrue: Bool, _ what: @autoclosure () -> String, line: Int = #line) {
    if isTrue { return }
    print("failed, line \(line): \(what())")
    exit(1)
}

func asked(_ tokens: Int) -> Request { Request([Message(.user, "hi")], maxTokens: tokens) }

/// The text and the end of an answer.
func answer(_ session: Session, _ tokens: Int) async throws -> (text: String, finish: Finish?) {
    var (text, finish) = ("", Finish?.none)
    for try await event in session.stream(asked(tokens)) {
        if case .text(let more) = event { text += more }
        if case .done(let why) = event { finish = why }
    }
    return (text, finish)
}

func checkAnswers() async throws {
    let engine = try await Engine.open()
    expect(try engine.describe().device == "stand-in", "describe")
    expect(try await Engine.memoryPlan(EngineOptions()).expertShare == 0.25, "memory plan")
    expect(try await Engine.check() == .object(["ok": .bool(true)]), "check")
    let whole = try await answer(engine.session(), 3)
    expect(whole == ("w0 w1 w2 ", .length), "\(whole)")
}

func checkCancelling() async throws {
    let session = try await Engine.open().session()
    let before = tokensMade()
    for try await event in session.stream(asked(100_000)) { if case .text = event { break } }
    expect(try await answer(session, 2).finish == .length, "an answer after one that was left")
    expect(tokensMade() - before < 1000, "the answer that was left went on")

    let task = Task { try await answer(session, 100_000).text }
    try await Task.sleep(for: .milliseconds(50))
    task.cancel()
    expect(try await task.value.count < 5000, "the answer of a cancelled task went on")

    // one that waits is cancelled, the one that runs is not
    async let running = answer(session, 200)
    try await Task.sleep(for: .milliseconds(30))
    let waiting = Task { try await answer(session, 100_000) }
    try await Task.sleep(for: .milliseconds(30))
    waiting.cancel()
    expect(try await running.finish == .length, "the running answer was ended")
    expect(try await answer(session, 1).text == "w0 ", "an answer after one that never ran")
}

func checkSuspending() async throws {
    let session = try await Engine.open().session()
    session.suspend()
    var seen = [Event]()
    for try await event in session.stream(asked(1)) {
        seen.append(event)
        if event == .suspended(.host) { session.resume() }
    }
    expect(seen == [.prefill(done: 0, total: 3), .suspended(.host), .resumed, .text("w0 "), .done(.length)], "\(seen)")
}

func checkErrors() async throws {
    do {
        _ = try await Engine.open(EngineOptions(model: URL(fileURLWithPath: "/nowhere")))
        expect(false, "a model that is not there was opened")
    } catch let error as FlashfloodError {
        expect((error.message, error.hint) == ("/nowhere: no such folder", "flashflood pull"), "\(error)")
    }
    let session = try await Engine.open().session()
    try await session.save(to: URL(fileURLWithPath: "/tmp"))
    do {
        try await session.save(to: URL(fileURLWithPath: "/full"))
        expect(false, "a full disk was written to")
    } catch {
        expect("\(error)".contains("full"), "\(error)")
    }
    try await session.restore(from: URL(fileURLWithPath: "/tmp"), for: asked(1))
}

func checkJSON() throws {
    let text = #"{"unit_name":1,"list":[true,null,1.5]}"#
    let expected = JSON.object(["unit_name": .integer(1), "list": .array([.bool(true), .null, .number(1.5)])])
    expect(try JSONDecoder().decode(JSON.self, from: Data(text.utf8)) == expected, text)
    expect(try jsonText(asked(3)).contains(#""max_tokens":3"#), "names of keys")
}

try checkJSON()
try await checkAnswers()
try await checkCancelling()
try await checkSuspending()
try await checkErrors()
// the last answer's thread may still hold its session
for _ in 0..<100 where left() != 0 { try await Task.sleep(for: .milliseconds(20)) }
expect(left() == 0, "not freed: \(left()) (engines, sessions, strings)")
print("the wrapper does what it should")
