// swift-tools-version: 6.0
// The Swift package: a thin wrapper around the C library, which build-xcframework.sh makes.
import PackageDescription

let package = Package(
    name: "Flashflood",
    platforms: [.iOS(.v17), .macOS(.v14)],
    products: [.library(name: "Flashflood", targets: ["Flashflood"])],
    targets: [
        // a release has .binaryTarget(name: "CFlashflood", url: .., checksum: ..) with what build-xcframework.sh prints
        .binaryTarget(name: "CFlashflood", path: "build/CFlashflood.xcframework"),
        .target(
            name: "Flashflood",
            dependencies: ["CFlashflood"],
            linkerSettings: [
                // what wgpu's Metal backend and Rust's standard library use
                .linkedFramework("Metal"),
                .linkedFramework("QuartzCore"),
                .linkedFramework("CoreGraphics"),
                .linkedFramework("Foundation"),
                .linkedFramework("IOKit", .when(platforms: [.macOS])),
                .linkedLibrary("iconv"),
            ]
        ),
        .testTarget(name: "FlashfloodTests", dependencies: ["Flashflood"]),
    ],
    swiftLanguageModes: [.v6]
)
