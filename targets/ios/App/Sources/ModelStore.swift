import Flashflood
import Foundation

/// A model in the app's folder.
struct LocalModel: Identifiable, Hashable, Sendable {
    /// The folder; `nil` is the small model inside the library.
    let folder: URL?
    /// The name of its repository, such as `owner/name`.
    let name: String

    var id: String { name }

    static let embedded = LocalModel(folder: nil, name: "small model of the library")

    func options(context: Int) -> EngineOptions {
        // the small model was trained for less
        EngineOptions(model: folder, context: folder == nil ? nil : context)
    }
}

/// How well a model fits this device, by the library's memory plan.
enum MemoryFit: Sendable, Equatable {
    /// All experts stay in memory.
    case whole
    /// So much of the experts does; the rest is read for every token.
    case streamed(share: Double)
    /// The plan does not work out, and why.
    case tooLarge(reason: String)

    /// Asks the library; this reads the beginnings of the model's files.
    static func of(_ model: LocalModel, context: Int) async -> MemoryFit {
        do {
            let plan = try await Engine.memoryPlan(model.options(context: context))
            return plan.expertShare >= 1 ? .whole : .streamed(share: plan.expertShare)
        } catch {
            return .tooLarge(reason: error.localizedDescription)
        }
    }

    var label: String {
        switch self {
        case .whole: "fits in memory"
        case .streamed(let share): "streams, \(Int((share * 100).rounded())) % of the experts in memory"
        case .tooLarge: "does not fit"
        }
    }
}

/// Where models lie: `Documents/Models/owner/name`, which the Files app shows.
enum ModelStore {
    static var root: URL { URL.documentsDirectory.appending(path: "Models", directoryHint: .isDirectory) }

    static func folder(of repository: String) -> URL { root.appending(path: repository, directoryHint: .isDirectory) }

    /// The models whose files are all there.
    static func models() -> [LocalModel] {
        let files = FileManager.default
        let folders = { (url: URL) in
            ((try? files.contentsOfDirectory(at: url, includingPropertiesForKeys: nil)) ?? []).filter(\.hasDirectoryPath)
        }
        let found = folders(root).flatMap(folders).filter { folder in
            let has = { (name: String) in files.fileExists(atPath: folder.appending(path: name).path(percentEncoded: false)) }
            return has("config.json") && !has(Manifest.fileName)
        }
        let named = found.map { LocalModel(folder: $0, name: $0.pathComponents.suffix(2).joined(separator: "/")) }
        return [.embedded] + named.sorted { $0.name < $1.name }
    }

    static func delete(_ model: LocalModel) throws {
        if let folder = model.folder { try FileManager.default.removeItem(at: folder) }
    }
}

/// What a repository consists of. It lies in the model's folder until everything is there.
struct Manifest: Codable, Sendable, Equatable {
    struct File: Codable, Sendable, Equatable {
        let path: String
        let size: Int64
    }

    static let fileName = ".download.json"

    let repository: String
    let revision: String
    let files: [File]

    var size: Int64 { files.reduce(0) { $0 + $1.size } }

    func url(of file: File) -> URL? {
        var parts = URLComponents(string: "https://huggingface.co")
        parts?.path = "/\(repository)/resolve/\(revision)/\(file.path)"
        return parts?.url
    }

    /// A file's place on this device. A path that would leave the folder has none.
    func place(of file: File) -> URL? {
        let names = file.path.split(separator: "/", omittingEmptySubsequences: false)
        guard !names.isEmpty, names.allSatisfy({ !$0.isEmpty && $0 != "." && $0 != ".." }) else { return nil }
        return ModelStore.folder(of: repository).appending(path: file.path)
    }

    /// The files that are not there in their whole length.
    func missing() -> [File] {
        files.filter { file in
            guard let place = place(of: file) else { return false }
            let found = try? FileManager.default.attributesOfItem(atPath: place.path(percentEncoded: false))[.size]
            return (found as? NSNumber)?.int64Value != file.size
        }
    }

    func save() throws {
        let folder = ModelStore.folder(of: repository)
        try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
        try JSONEncoder().encode(self).write(to: folder.appending(path: Manifest.fileName), options: .atomic)
    }

    /// Marks the model as whole.
    func finish() throws {
        try FileManager.default.removeItem(at: ModelStore.folder(of: repository).appending(path: Manifest.fileName))
    }

    /// The downloads that were begun.
    static func unfinished() -> [Manifest] {
        let found = FileManager.default.enumerator(at: ModelStore.root, includingPropertiesForKeys: nil)
        return (found?.compactMap { $0 as? URL } ?? []).filter { $0.lastPathComponent == fileName }.compactMap {
            try? JSONDecoder().decode(Manifest.self, from: Data(contentsOf: $0))
        }
    }
}
