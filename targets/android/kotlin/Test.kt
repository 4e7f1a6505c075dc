// Runs Flashflood.kt on a Java virtual machine, with the small model inside the library: see ../kotlin.sh.
package org.flashflood

import java.io.File
import java.util.concurrent.atomic.AtomicInteger
import kotlin.concurrent.thread
import kotlin.system.exitProcess

private fun request(question: String, tokens: Int) =
    """{"messages": [{"role": "user", "content": "$question"}], "temperature": 0, "max_tokens": $tokens}"""

/** The texts of an answer, and how it ended. */
private class Answer : Listener {
    val text = StringBuilder()
    var end = ""
    var onText: () -> Unit = {}

    override fun event(json: String) {
        val type = field(json, "type")
        if (type == "text") {
            text.append(field(json, "text"))
            onText()
        }
        if (type == "done") end = field(json, "finish")
    }

    private fun field(json: String, name: String) = Regex("\"$name\": ?\"((?:[^\"\\\\]|\\\\.)*)\"").find(json)?.groupValues?.get(1) ?: ""
}

private fun expect(holds: Boolean, what: () -> String) {
    if (!holds) throw AssertionError(what())
}

private inline fun <reified T : Throwable> thrown(work: () -> Unit): T {
    try {
        work()
    } catch (error: Throwable) {
        if (error is T) return error
        throw error
    }
    throw AssertionError("nothing was thrown")
}

private fun answers(engine: Engine) = engine.session().use { session ->
    val answer = Answer()
    session.send(request("What is the capital of Peru?", 16), answer)
    expect("Lima" in answer.text && answer.end == "stop") { "${answer.text} ${answer.end}" }
    // beyond 16 bits, where JNI's own texts are no UTF-8
    session.send(request("\uD83E\uDDA9 What is the capital of Peru?", 4), answer)
}

private fun errors(engine: Engine) {
    val missing = "/nowhere/mod\u00e8le-\uD83E\uDDA9"
    val error = thrown<FlashfloodException> { Engine("""{"model": "$missing"}""") }
    expect(missing in error.message!!) { error.message!! }
    engine.session().use { session -> thrown<FlashfloodException> { session.send("{") } }
}

private fun ends(engine: Engine) {
    val session = engine.session()
    val answer = Answer()
    answer.onText = { session.cancel() }
    session.send(request("Tell me a story.", 500), answer)
    expect(answer.end == "cancelled") { answer.end }
    // what a listener throws comes out of send, and the next answer is whole
    val thrown = thrown<IllegalStateException> {
        session.send(request("Tell me a story.", 500), object : Listener {
            override fun event(json: String) = throw IllegalStateException("enough")
        })
    }
    expect(thrown.message == "enough") { thrown.message!! }
    val again = Answer()
    session.send(request("What is the capital of Peru?", 16), again)
    expect("Lima" in again.text) { again.text.toString() }
    // a listener that closes what calls it would wait for itself
    again.onText = { session.close() }
    thrown<IllegalStateException> { session.send(request("Tell me a story.", 50), again) }
    session.close()
    session.close()
    session.cancel()
    thrown<IllegalStateException> { session.send(request("Hello", 1)) }
}

private fun keeps(engine: Engine, folder: File) {
    engine.session().use { session ->
        session.send(request("What is the capital of Peru?", 4))
        session.save(folder.path)
    }
    expect(folder.list()!!.isNotEmpty()) { "nothing was saved" }
    engine.session().use { session ->
        session.restore(folder.path, request("What is the capital of Peru?", 4))
        session.send(request("What is the capital of Peru?", 4))
    }
}

/** Sessions that answer, are suspended, cancelled and closed while the engine closes. */
private fun closes() {
    val engine = Engine("""{"device": "cpu"}""")
    val begun = AtomicInteger()
    val threads = (0 until 3).map {
        thread {
            try {
                val session = engine.session()
                val answer = Answer()
                answer.onText = { begun.incrementAndGet() }
                while (true) session.send(request("Tell me a story.", 200), answer)
            } catch (_: IllegalStateException) {
                // closed
            } catch (error: FlashfloodException) {
                expect("closed" in error.message!!) { error.message!! }
            }
        }
    }
    val session = engine.session()
    session.suspend()
    session.resume()
    while (begun.get() < 20) Thread.sleep(1)
    engine.close()
    threads.forEach { it.join(60_000) }
    expect(threads.none { it.isAlive }) { "a session goes on after its engine" }
    thrown<IllegalStateException> { engine.describe() }
}

fun main(arguments: Array<String>) {
    thread(isDaemon = true) {
        Thread.sleep(240_000)
        System.err.println("it hangs")
        exitProcess(3)
    }
    expect(Regex("\\d+\\.\\d+\\.\\d+").matches(Engine.version)) { Engine.version }
    expect("available" in Engine.memoryPlan("""{"device": "cpu"}""")) { "a plan" }
    Engine("""{"device": "cpu"}""").use { engine ->
        expect("CPU" in engine.describe()) { engine.describe() }
        answers(engine)
        errors(engine)
        ends(engine)
        keeps(engine, File(arguments[0]))
    }
    closes()
    println("Kotlin: answers, errors, ends, saved state and closing are as they should be")
}
