import Foundation
import Observation

/// Downloads of models, which go on while the app is not running.
///
/// The system does them (a background session): a lost network is waited for, and a file goes on where it stopped. What
/// belongs to a download is in the manifest in the model's folder, so that an app that was ended finds it again.
@MainActor
@Observable
final class Downloads {
    /// Bytes that are there, by repository.
    private(set) var progress: [String: (done: Int64, of: Int64)] = [:]
    private(set) var failure: String?
    /// Called when a model is whole.
    @ObservationIgnored var onFinished: () -> Void = {}
    /// The system's, to be called when all its events are handled.
    @ObservationIgnored var onBackgroundEvents: (@MainActor () -> Void)?

    @ObservationIgnored private let receiver = Receiver()
    @ObservationIgnored private lazy var session: URLSession = {
        let configuration = URLSessionConfiguration.background(withIdentifier: "flashflood.models")
        configuration.isDiscretionary = false
        configuration.sessionSendsLaunchEvents = true
        configuration.allowsExpensiveNetworkAccess = false
        return URLSession(configuration: configuration, delegate: receiver, delegateQueue: nil)
    }()
    /// Bytes of files that are on their way, by task.
    @ObservationIgnored private var partly: [Int: (repository: String, bytes: Int64)] = [:]
    /// Bytes of whole files, and of all, by repository.
    @ObservationIgnored private var whole: [String: (done: Int64, of: Int64)] = [:]

    init() {
        receiver.owner = self
    }

    /// Takes up what was begun, at the start of the app.
    func goOn() async {
        for manifest in Manifest.unfinished() { await start(manifest) }
    }

    func start(repository: String) async {
        failure = nil
        do {
            let manifest = try await Hub.manifest(of: repository)
            let free = try URL.documentsDirectory.resourceValues(forKeys: [.volumeAvailableCapacityForImportantUsageKey])
            if let free = free.volumeAvailableCapacityForImportantUsage, free < manifest.size {
                let (needed, free) = (manifest.size.formatted(.byteCount(style: .file)), free.formatted(.byteCount(style: .file)))
                failure = "\(repository) needs \(needed), \(free) are free"
                return
            }
            try manifest.save()
            await start(manifest)
        } catch {
            failure = error.localizedDescription
        }
    }

    private func start(_ manifest: Manifest) async {
        let running = Set(await session.allTasks.compactMap(\.taskDescription))
        for file in manifest.missing() {
            let key = Receiver.Key(manifest: manifest, file: file)
            guard let url = manifest.url(of: file), !running.contains(key.text) else { continue }
            let task = resumable(key.text).map(session.downloadTask(withResumeData:)) ?? session.downloadTask(with: url)
            task.taskDescription = key.text
            task.resume()
        }
        update(manifest.repository)
    }

    func cancel(_ repository: String) async {
        for task in await session.allTasks where Receiver.Key(text: task.taskDescription)?.repository == repository {
            task.cancel()
        }
        try? FileManager.default.removeItem(at: ModelStore.folder(of: repository))
        (progress[repository], whole[repository]) = (nil, nil)
    }

    fileprivate func received(_ task: Int, _ bytes: Int64, of repository: String) {
        partly[task] = (repository, bytes)
        show(repository)
    }

    fileprivate func ended(_ task: Int, of repository: String, failure: String?, resumeData: Data?, key: String) {
        partly[task] = nil
        if let failure { self.failure = "\(repository): \(failure)" }
        if let resumeData { keep(resumeData, key) }
        update(repository)
    }

    fileprivate func backgroundEventsEnded() {
        onBackgroundEvents?()
        onBackgroundEvents = nil
    }

    private func update(_ repository: String) {
        guard let manifest = Manifest.unfinished().first(where: { $0.repository == repository }) else { return }
        let missing = manifest.missing()
        if missing.isEmpty {
            do {
                try manifest.finish()
                (progress[repository], whole[repository]) = (nil, nil)
                onFinished()
            } catch {
                failure = error.localizedDescription
            }
            return
        }
        whole[repository] = (manifest.size - missing.reduce(0) { $0 + $1.size }, manifest.size)
        show(repository)
    }

    /// Called many times a second.
    private func show(_ repository: String) {
        guard let (done, size) = whole[repository] else { return }
        let partly = partly.values.filter { $0.repository == repository }.reduce(0) { $0 + $1.bytes }
        progress[repository] = (min(size, done + partly), size)
    }

    // What a download that failed can go on from. It is small: it names the file that the system keeps.

    private func resumePlace(_ key: String) -> URL {
        let name = Data(key.utf8).base64EncodedString().replacingOccurrences(of: "/", with: "_")
        return URL.cachesDirectory.appending(path: "resume-\(name.suffix(120))")
    }

    private func keep(_ resumeData: Data, _ key: String) {
        try? resumeData.write(to: resumePlace(key), options: .atomic)
    }

    private func resumable(_ key: String) -> Data? {
        let place = resumePlace(key)
        defer { try? FileManager.default.removeItem(at: place) }
        return try? Data(contentsOf: place)
    }
}

/// Hears of downloads, on a thread of the system's.
private final class Receiver: NSObject, URLSessionDownloadDelegate, @unchecked Sendable {
    /// Which file of which model a task is for; it is kept by the system, in the task's description.
    struct Key {
        let repository, revision, path: String
        let size: Int64

        init(manifest: Manifest, file: Manifest.File) {
            (repository, revision) = (manifest.repository, manifest.revision)
            (path, size) = (file.path, file.size)
        }

        init?(text: String?) {
            let parts = (text ?? "").split(separator: "\n").map(String.init)
            guard parts.count == 4, let size = Int64(parts[3]) else { return nil }
            (repository, revision, path, self.size) = (parts[0], parts[1], parts[2], size)
        }

        var text: String { [repository, revision, path, String(size)].joined(separator: "\n") }

        var place: URL? {
            let file = Manifest.File(path: path, size: size)
            return Manifest(repository: repository, revision: revision, files: [file]).place(of: file)
        }
    }

    /// Set before the session is made, and not again.
    weak var owner: Downloads?

    func urlSession(_: URLSession, downloadTask task: URLSessionDownloadTask, didFinishDownloadingTo file: URL) {
        guard let key = Key(text: task.taskDescription), let place = key.place else { return }
        let status = (task.response as? HTTPURLResponse)?.statusCode ?? 0
        var failure: String?
        do {
            let size = try FileManager.default.attributesOfItem(atPath: file.path(percentEncoded: false))[.size]
            if status / 100 != 2 {
                failure = "\(key.path): the hub answered \(status)"
            } else if (size as? NSNumber)?.int64Value != key.size {
                failure = "\(key.path): expected \(key.size) bytes, got \(size.map { "\($0)" } ?? "none")"
            } else {
                // the file is gone when this returns
                let folder = place.deletingLastPathComponent()
                try FileManager.default.createDirectory(at: folder, withIntermediateDirectories: true)
                try? FileManager.default.removeItem(at: place)
                try FileManager.default.moveItem(at: file, to: place)
                // models can be had again: they do not belong into backups
                var moved = place
                var values = URLResourceValues()
                values.isExcludedFromBackup = true
                try moved.setResourceValues(values)
            }
        } catch {
            failure = error.localizedDescription
        }
        let (id, owner, why) = (task.taskIdentifier, owner, failure)
        Task { @MainActor in owner?.ended(id, of: key.repository, failure: why, resumeData: nil, key: key.text) }
    }

    func urlSession(
        _: URLSession, downloadTask task: URLSessionDownloadTask, didWriteData _: Int64, totalBytesWritten bytes: Int64,
        totalBytesExpectedToWrite _: Int64
    ) {
        guard let key = Key(text: task.taskDescription) else { return }
        let (id, owner) = (task.taskIdentifier, owner)
        Task { @MainActor in owner?.received(id, bytes, of: key.repository) }
    }

    func urlSession(_: URLSession, task: URLSessionTask, didCompleteWithError error: (any Error)?) {
        guard let error, let key = Key(text: task.taskDescription) else { return }
        let (id, owner) = (task.taskIdentifier, owner)
        let failure = (error as? URLError)?.code == .cancelled ? nil : error.localizedDescription
        let resumeData = (error as NSError).userInfo[NSURLSessionDownloadTaskResumeData] as? Data
        Task { @MainActor in
            owner?.ended(id, of: key.repository, failure: failure, resumeData: resumeData, key: key.text)
        }
    }

    func urlSessionDidFinishEvents(forBackgroundURLSession _: URLSession) {
        let owner = owner
        Task { @MainActor in owner?.backgroundEventsEnded() }
    }
}
