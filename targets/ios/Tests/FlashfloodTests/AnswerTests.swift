import XCTest

@testable import Flashflood

/// With the small model inside the library.
final class AnswerTests: XCTestCase {
    private let question = [Message(.user, "One sunny morning Mia the panda walked to the tower.")]

    func testAnAnswerHasTextAndEndsOnce() async throws {
        let engine = try await Engine.open()
        XCTAssertGreaterThan(try engine.describe().memory.total, 0)
        var (text, ends, statistics) = ("", 0, [Statistics]())
        for try await event in try engine.session().stream(Request(question, maxTokens: 16, temperature: 0)) {
            switch event {
            case .text(let more): text += more
            case .statistics(let all): statistics.append(all)
            case .done: ends += 1
            default: break
            }
        }
        XCTAssertFalse(text.isEmpty)
        XCTAssertEqual(ends, 1)
        XCTAssertEqual(statistics.count, 1)
        XCTAssertGreaterThan(statistics[0].tokens, 0)
    }

    func testALoopThatIsLeftEndsTheAnswer() async throws {
        let session = try await Engine.open().session()
        for try await event in session.stream(Request(question, maxTokens: 100_000)) {
            if case .text = event { break }
        }
        // waits for the first, which would take long
        var finish: Finish?
        for try await event in session.stream(Request(question, maxTokens: 2)) {
            if case .done(let why) = event { finish = why }
        }
        XCTAssertNotNil(finish)
    }

    func testASuspendedSessionWaits() async throws {
        let session = try await Engine.open().session()
        session.suspend()
        var seen = [Event]()
        for try await event in session.stream(Request(question, maxTokens: 2, temperature: 0)) {
            seen.append(event)
            if event == .suspended(.host) { session.resume() }
        }
        XCTAssertTrue(seen.contains(.suspended(.host)))
        XCTAssertTrue(seen.contains(.resumed))
    }

    func testErrorsHaveWords() async {
        do {
            _ = try await Engine.open(EngineOptions(model: URL(fileURLWithPath: "/nowhere")))
            XCTFail("there is no such model")
        } catch {
            XCTAssertTrue("\(error)".contains("nowhere"), "\(error)")
        }
    }
}
