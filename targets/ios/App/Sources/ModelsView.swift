import SwiftUI

/// Picks a model, or downloads one.
struct ModelsView: View {
    let conversation: Conversation
    let downloads: Downloads

    @State private var models: [LocalModel] = []
    @State private var fits: [LocalModel.ID: MemoryFit] = [:]
    @State private var repository = ""
    @State private var failure: String?

    var body: some View {
        List {
            Section("On this device") {
                ForEach(models) { model in
                    NavigationLink(value: model) {
                        VStack(alignment: .leading) {
                            Text(model.name)
                            FitBadge(fit: fits[model.id])
                        }
                    }
                    .deleteDisabled(model.folder == nil)
                }
                .onDelete { places in
                    do {
                        for place in places { try ModelStore.delete(models[place]) }
                    } catch {
                        failure = error.localizedDescription
                    }
                    refresh()
                }
            }
            Section("Download from Hugging Face") {
                TextField("owner/name", text: $repository)
                    .autocorrectionDisabled()
                    .textInputAutocapitalization(.never)
                Button("Download") { Task { await downloads.start(repository: repository) } }
                    .disabled(!Hub.isRepository(repository))
                ForEach(downloads.progress.keys.sorted(), id: \.self) { name in
                    if let progress = downloads.progress[name] { row(name, progress.done, progress.of) }
                }
                if let failure = downloads.failure ?? failure { Text(failure).foregroundStyle(.red) }
            }
        }
        .navigationTitle("Flashflood")
        .navigationDestination(for: LocalModel.self) { ChatView(model: $0, conversation: conversation) }
        .onAppear {
            downloads.onFinished = refresh
            refresh()
        }
        .task(id: models) {
            for model in models where fits[model.id] == nil {
                fits[model.id] = await MemoryFit.of(model, context: Conversation.context)
            }
        }
    }

    private func row(_ name: String, _ done: Int64, _ total: Int64) -> some View {
        VStack(alignment: .leading) {
            HStack {
                Text(name)
                Spacer()
                Button("Cancel", role: .destructive) { Task { await downloads.cancel(name) } }
                    .buttonStyle(.borderless)
            }
            ProgressView(value: Double(done), total: Double(max(1, total)))
            Text("\(done.formatted(.byteCount(style: .file))) of \(total.formatted(.byteCount(style: .file)))")
                .font(.caption).foregroundStyle(.secondary)
        }
    }

    private func refresh() {
        models = ModelStore.models()
    }
}

/// Whether a model fits in memory.
struct FitBadge: View {
    let fit: MemoryFit?

    var body: some View {
        if let fit {
            Label(fit.label, systemImage: symbol(fit)).font(.caption).foregroundStyle(colour(fit))
            if case .tooLarge(let reason) = fit { Text(reason).font(.caption2).foregroundStyle(.secondary) }
        } else {
            ProgressView().controlSize(.mini)
        }
    }

    private func symbol(_ fit: MemoryFit) -> String {
        switch fit {
        case .whole: "checkmark.circle.fill"
        case .streamed: "arrow.down.circle"
        case .tooLarge: "xmark.circle.fill"
        }
    }

    private func colour(_ fit: MemoryFit) -> Color {
        switch fit {
        case .whole: .green
        case .streamed: .orange
        case .tooLarge: .red
        }
    }
}
