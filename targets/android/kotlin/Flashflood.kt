// flashflood in Kotlin: the C library (targets/c/flashflood.h) behind two classes. Requests, options and events are JSON, in the
// words of the C library: a request is the body of OpenAI's /v1/chat/completions. Nothing here is Android's own.
package org.flashflood

import java.io.Closeable
import java.util.concurrent.locks.ReentrantReadWriteLock
import kotlin.concurrent.read
import kotlin.concurrent.write

/** What the library says of something that went wrong. */
class FlashfloodException(message: ByteArray) : Exception(String(message, Charsets.UTF_8))

/** Told what happens while an answer is made, on the thread that called [Session.send]. What it throws ends the answer. */
interface Listener {
    /** An object with a `type`: `prefill`, `thinking`, `text`, `tool_call`, .., `done`. */
    fun event(json: String)
}

/**
 * A loaded model. `options` are JSON: `{"model": "/path", "device": "gpu", "expert_cache": "2GB", ..}`; without `model` it is the
 * small model inside the library. Loading takes up to minutes: not on the main thread.
 */
class Engine(options: String? = null) : Closeable {
    private val gate = Gate(Native.open(options?.bytes()))
    private val sessions = HashSet<Session>()

    /** Device, model and memory plan. */
    fun describe(): String = gate.use { Native.describe(it) }.text()

    /** A new conversation. */
    fun session(): Session = gate.use { handle ->
        synchronized(sessions) { Session(this, Native.newSession(handle)).also { sessions.add(it) } }
    }

    /** Ends running answers at a token, waits for them, and frees the model. Not from a [Listener]. */
    override fun close() {
        synchronized(sessions) { sessions.toList() }.forEach { it.close() }
        // one that was made meanwhile ends with the engine
        gate.close { Native.close(it) }
    }

    internal fun forget(session: Session) = synchronized(sessions) { sessions.remove(session) }

    companion object {
        /** The library's version. */
        val version: String get() = Native.version().text()

        /** Where memory would go with such options; nothing is loaded. */
        fun memoryPlan(options: String? = null): String = Native.memoryPlan(options?.bytes()).text()
    }
}

/** A conversation. [send] is for one thread at a time, everything else for any. */
class Session internal constructor(private val engine: Engine, handle: Long) : Closeable {
    private val gate = Gate(handle)

    /** Answers a request that has the whole history, what is known of which is not computed again; returns when that is done. */
    fun send(request: String, listener: Listener? = null) = gate.use { Native.send(it, request.bytes(), listener) }

    /** Ends the answer that is being made at its next token. */
    fun cancel() = gate.useIfOpen { Native.cancel(it) }

    /** Gives the GPU nothing more from the next token on, until [resume]: when an app goes to the background. */
    fun suspend() = gate.useIfOpen { Native.suspend(it) }

    fun resume() = gate.useIfOpen { Native.resume(it) }

    /** Keeps the state of the last answer in a file in `folder`. */
    fun save(folder: String) = gate.use { Native.save(it, folder.bytes()) }

    /** Takes what a file of `folder` has of the beginning of a request. */
    fun restore(folder: String, request: String) = gate.use { Native.restore(it, folder.bytes(), request.bytes()) }

    /** Ends a running answer at a token, waits for it, and frees the session. Not from a [Listener]. */
    override fun close() {
        gate.close(before = { Native.cancel(it) }) { Native.closeSession(it) }
        engine.forget(this)
    }
}

/** Keeps a handle from being freed while it is used, and from being used afterwards. */
internal class Gate(private var handle: Long) {
    private val lock = ReentrantReadWriteLock()
    @Volatile private var isClosing = false

    fun <T> use(work: (Long) -> T): T = lock.read {
        check(!isClosing && handle != 0L) { "it is closed" }
        work(handle)
    }

    fun useIfOpen(work: (Long) -> Unit) = lock.read { if (!isClosing && handle != 0L) work(handle) }

    fun close(before: (Long) -> Unit = {}, free: (Long) -> Unit) {
        check(lock.readHoldCount == 0) { "a listener cannot close what calls it: cancel, and close afterwards" }
        // those that run end soon, those that come are refused
        isClosing = true
        lock.read { if (handle != 0L) before(handle) }
        lock.write {
            if (handle != 0L) free(handle)
            handle = 0L
        }
    }
}

private fun String.bytes() = toByteArray(Charsets.UTF_8)
private fun ByteArray.text() = String(this, Charsets.UTF_8)

/** flashflood_jni.c. Texts are bytes: what JNI takes for UTF-8 has no characters beyond 16 bits. */
internal object Native {
    init {
        System.loadLibrary("flashflood_jni")
    }

    external fun version(): ByteArray
    external fun memoryPlan(options: ByteArray?): ByteArray
    external fun open(options: ByteArray?): Long
    external fun describe(engine: Long): ByteArray
    external fun close(engine: Long)
    external fun newSession(engine: Long): Long
    external fun send(session: Long, request: ByteArray, listener: Listener?)
    external fun cancel(session: Long)
    external fun suspend(session: Long)
    external fun resume(session: Long)
    external fun save(session: Long, folder: ByteArray)
    external fun restore(session: Long, folder: ByteArray, request: ByteArray)
    external fun closeSession(session: Long)

    /** What flashflood_jni.c calls with each event. */
    @JvmStatic
    fun tell(listener: Listener, json: ByteArray) = listener.event(json.text())
}
