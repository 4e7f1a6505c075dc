import Foundation
import XCTest

@testable import Flashflood

final class EventTests: XCTestCase {
    private func events(_ json: String) throws -> [Event] { try Event.decoded(Data(json.utf8)) }

    func testEventsOfTheLibrary() throws {
        XCTAssertEqual(try events(#"{"type":"prefill","done":3,"total":9}"#), [.prefill(done: 3, total: 9)])
        XCTAssertEqual(try events(#"{"type":"text","text":"ü"}"#), [.text("ü")])
        XCTAssertEqual(try events(#"{"type":"suspended","reason":"thermal"}"#), [.suspended(.thermal)])
        XCTAssertEqual(try events(#"{"type":"suspended","reason":"moon"}"#), [.suspended(.other)])
        XCTAssertEqual(try events(#"{"type":"done","finish":"cancelled","statistics":null}"#), [.done(.cancelled)])
        XCTAssertEqual(try events(#"{"type":"of a later version"}"#), [])
    }

    func testArgumentsKeepTheirNames() throws {
        let call = try events(#"{"type":"tool_call","id":"1","name":"f","arguments":{"unit_name":"°C","n":[1,2.5]}}"#)
        let arguments = JSON.object(["unit_name": .string("°C"), "n": .array([.integer(1), .number(2.5)])])
        XCTAssertEqual(call, [.toolCall(ToolCall(id: "1", name: "f", arguments: arguments))])
    }

    func testHintsAreTakenFromErrors() {
        let error = FlashfloodError("no room (for 3) (hint: use less)")
        XCTAssertEqual(error.message, "no room (for 3)")
        XCTAssertEqual(error.hint, "use less")
        XCTAssertNil(FlashfloodError("no (reason)").hint)
    }
}
