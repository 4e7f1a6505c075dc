// The wrapper against the library itself and the small model inside it: check-wrapper.sh LIBRARY compiles both together.
import Foundation

func expect(_ isTrue: Bool, _ what: @autoclosure () -> String, line: Int = #line) {
    if isTrue { return }
    print("failed, line \(line): \(what())")
    exit(1)
}

let engine = try await Engine.open(EngineOptions(device: "cpu", context: 1024))
let device = try engine.describe().device
expect(device.hasPrefix("CPU"), device)
let session = try engine.session()
var turns = [Message(.user, "What is the capital of Peru?")]
for capital in ["Lima", "Paris"] {
    var (text, finish, reused, prefilled) = ("", Finish?.none, 0, 0)
    for try await event in session.stream(Request(turns, temperature: 0)) {
        switch event {
        case .prefill(let done, _): prefilled = done
        case .text(let more): text += more
        case .statistics(let statistics): reused = statistics.reusedTokens
        case .done(let why): finish = why
        default: break
        }
    }
    expect((text, finish) == (capital, .stop), "\(text) \(String(describing: finish))")
    expect(prefilled > 10 && (capital == "Lima" || reused > 10), "\(prefilled) tokens, \(reused) of them reused")
    turns += [Message(.assistant, text), Message(.user, "What is the capital of France?")]
}
let folder = FileManager.default.temporaryDirectory.appendingPathComponent(UUID().uuidString)
try await session.save(to: folder)
try await session.restore(from: folder, for: Request(turns))
try FileManager.default.removeItem(at: folder)
do {
    _ = try await Engine.open(EngineOptions(model: URL(fileURLWithPath: "/nowhere")))
    expect(false, "a model that is not there was opened")
} catch let error as FlashfloodError {
    expect(error.message.contains("/nowhere"), "\(error)")
}
print("the wrapper and the library do what they should")
