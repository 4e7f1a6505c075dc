import Foundation

/// Asks the Hugging Face hub what a repository has.
enum Hub {
    struct Refusal: LocalizedError {
        let errorDescription: String?
    }

    private struct Answer: Decodable {
        struct Sibling: Decodable {
            let rfilename: String
            let size: Int64?
        }

        let sha: String
        let siblings: [Sibling]
    }

    /// A name as in `owner/name`.
    static func isRepository(_ name: String) -> Bool {
        name.wholeMatch(of: /[A-Za-z0-9][A-Za-z0-9._-]*\/[A-Za-z0-9][A-Za-z0-9._-]*/) != nil && !name.contains("..")
    }

    /// Files that a model needs; others (pictures, other formats) stay where they are.
    static func isNeeded(_ path: String) -> Bool {
        [".safetensors", ".json", ".jinja", ".txt", ".bin"].contains { path.hasSuffix($0) } && !path.hasPrefix(".")
    }

    /// The files of the newest revision, with their sizes.
    static func manifest(of repository: String) async throws -> Manifest {
        guard isRepository(repository), let url = URL(string: "https://huggingface.co/api/models/\(repository)?blobs=true")
        else { throw Refusal(errorDescription: "\(repository): expected owner/name") }
        let (data, response) = try await URLSession.shared.data(from: url)
        let status = (response as? HTTPURLResponse)?.statusCode ?? 0
        guard status == 200 else { throw Refusal(errorDescription: "\(repository): the hub answered \(status)") }
        let answer = try JSONDecoder().decode(Answer.self, from: data)
        let files = answer.siblings.filter { isNeeded($0.rfilename) }.compactMap { sibling in
            sibling.size.map { Manifest.File(path: sibling.rfilename, size: $0) }
        }
        guard files.contains(where: { $0.path == "config.json" }) else {
            throw Refusal(errorDescription: "\(repository) has no config.json: it is not a model of a known form")
        }
        return Manifest(repository: repository, revision: answer.sha, files: files)
    }
}
