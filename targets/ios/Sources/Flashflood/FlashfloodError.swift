import CFlashflood
import Foundation

/// Why the library refused, in words for people.
public struct FlashfloodError: LocalizedError, Sendable, Equatable {
    /// What is wrong.
    public let message: String
    /// What to do about it, when the library knows.
    public let hint: String?

    /// Takes `what is wrong (hint: what to do)` apart.
    init(_ text: String) {
        guard text.hasSuffix(")"), let hint = text.range(of: " (hint: ", options: .backwards) else {
            (message, self.hint) = (text, nil)
            return
        }
        message = String(text[..<hint.lowerBound])
        self.hint = String(text[hint.upperBound...].dropLast())
    }

    public var errorDescription: String? { message }
    public var recoverySuggestion: String? { hint }
}

/// Where a function of the library puts its error.
typealias ErrorSlot = UnsafeMutablePointer<UnsafeMutablePointer<CChar>?>

/// The text of a string of the library, which is freed.
func taken(_ string: UnsafeMutablePointer<CChar>) -> String {
    defer { flashflood_string_free(string) }
    return String(cString: string)
}

/// Calls a function of the library that fails by giving `nil`.
func checked<T>(_ call: (ErrorSlot) -> T?) throws -> T {
    var error: UnsafeMutablePointer<CChar>?
    let result = call(&error)
    // it is ours to free, whatever else was given
    let text = error.map(taken)
    guard let result else { throw FlashfloodError(text ?? "the library gave no reason") }
    return result
}
