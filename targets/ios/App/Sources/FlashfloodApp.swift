import SwiftUI
import UIKit

@main
struct FlashfloodApp: App {
    @UIApplicationDelegateAdaptor(AppDelegate.self) private var delegate
    @Environment(\.scenePhase) private var phase
    @State private var conversation = Conversation()

    var body: some Scene {
        WindowGroup {
            NavigationStack { ModelsView(conversation: conversation, downloads: delegate.downloads) }
        }
        .onChange(of: phase) { _, now in
            // also when merely inactive: what was submitted must be done before the background
            conversation.setActive(now == .active)
        }
        .onChange(of: conversation.isAnswering) { _, isAnswering in
            UIApplication.shared.isIdleTimerDisabled = isAnswering
        }
    }
}

/// Downloads that end while the app is not running start it for a moment.
@MainActor
final class AppDelegate: NSObject, UIApplicationDelegate {
    let downloads = Downloads()

    func application(
        _: UIApplication, didFinishLaunchingWithOptions _: [UIApplication.LaunchOptionsKey: Any]? = nil
    ) -> Bool {
        Task { await downloads.goOn() }
        return true
    }

    func application(
        _: UIApplication, handleEventsForBackgroundURLSession _: String, completionHandler: @escaping () -> Void
    ) {
        downloads.onBackgroundEvents = completionHandler
    }
}
