/* flashflood as a C library. Made by cbindgen of targets/c/src: do not edit. What misuse does stands there too. */

#ifndef FLASHFLOOD_H
#define FLASHFLOOD_H

// A loaded model.
typedef struct flashflood_engine flashflood_engine;

// One conversation.
typedef struct flashflood_session flashflood_session;

// Told what happens while an answer is made, on the thread that called `flashflood_session_send`. `event_json` is an
// object with a `type`, and lives until the callback returns:
//
// - `{"type": "prefill", "done": 512, "total": 4096}`
// - `{"type": "thinking", "text": ".."}`, `{"type": "text", "text": ".."}`
// - `{"type": "tool_call_begin", "id": "..", "name": ".."}`, a call whose arguments follow
// - `{"type": "tool_call_arguments", "id": "..", "piece": ".."}`, more of the text of its arguments
// - `{"type": "tool_call", "id": "..", "name": "..", "arguments": {..}}`, the whole call
// - `{"type": "suspended", "reason": "host|thermal|machine"}`, `{"type": "resumed"}`: nothing is computed between them
// - `{"type": "done", "finish": "stop|length|context|cancelled", "statistics": {..}}`, the last one; `statistics` is null
//   when nothing was computed
typedef void (*flashflood_event)(void *context, const char *event_json);

#ifdef __cplusplus
extern "C" {
#endif // __cplusplus

// The library's version, such as "0.1.0". Not to be freed.
const char *flashflood_version(void);

// Where memory would go, as JSON; nothing is loaded. `options_json` is as for `flashflood_engine_open`. NULL and an error
// when the model does not fit, or cannot be read. To be freed with `flashflood_string_free`.
//
// # Safety
// `options_json` is null or ends with a zero; `error` is null or can be written to.
char *flashflood_memory_plan(const char *options_json,
                             char **error);

// Loads a model, which may take minutes. `options_json` is NULL or an object:
// `{"model": "/path", "device": "auto|gpu|cpu", "context": 8192, "kv": "f16", "rope_scaling": "auto|none|yarn:4",
// "expert_cache": "auto|all|8GB", ..}`; without `model` it is the small model inside the library. NULL and an error when
// that fails.
//
// # Safety
// `options_json` is null or ends with a zero; `error` is null or can be written to.
flashflood_engine *flashflood_engine_open(const char *options_json,
                                          char **error);

// Device, model and memory plan as JSON. To be freed with `flashflood_string_free`.
//
// # Safety
// `engine` is null or an open engine; `error` is null or can be written to.
char *flashflood_engine_describe(const flashflood_engine *engine, char **error);

// Ends running answers at a token, waits for them, and frees the engine and its sessions. NULL is nothing.
//
// # Safety
// `engine` is null or an open engine, and no call but a running `flashflood_session_send` uses it or its sessions now or
// later.
void flashflood_engine_close(flashflood_engine *engine);

// A new conversation on an engine. NULL and an error when that fails.
//
// # Safety
// `engine` is null or an open engine; `error` is null or can be written to.
flashflood_session *flashflood_session_new(flashflood_engine *engine, char **error);

// Answers a request, and returns when the answer is done: 0, or -1 and an error. `request_json` is the body of OpenAI's
// `/v1/chat/completions`, with the whole history: what is known of it is not computed again. `event` may be NULL.
//
// # Safety
// `session` is null or of an open engine; strings are null or end with a zero; `error` is null or can be written to;
// `event` may be called with `context` on this thread until the function returns.
int flashflood_session_send(flashflood_session *session,
                            const char *request_json,
                            flashflood_event event,
                            void *context,
                            char **error);

// Ends the answer that is being made at its next token, and a grammar that is being made for it at once, from any thread.
// Without one it does nothing.
//
// # Safety
// `session` is null or of an open engine.
void flashflood_session_cancel(flashflood_session *session);

// Pauses the answer that is being made, and those to come, at a token or a layer of the prompt, from any thread. After the
// event `suspended` nothing is given to the GPU until `flashflood_session_resume`; what it was given before ends within
// a layer's time.
//
// # Safety
// `session` is null or of an open engine.
void flashflood_session_suspend(flashflood_session *session);

// Goes on after `flashflood_session_suspend`, from any thread.
//
// # Safety
// `session` is null or of an open engine.
void flashflood_session_resume(flashflood_session *session);

// Keeps the state of the session's last answer in a file in `folder`, which is made where there is none: 0, or -1 and an
// error, also when another session has answered since. What was kept before stays as it was until the new file is whole;
// then it goes, when it is the same conversation's.
//
// # Safety
// `session` is null or of an open engine; `folder` is null or ends with a zero; `error` is null or can be written to.
int flashflood_session_save(flashflood_session *session,
                            const char *folder,
                            char **error);

// Takes the state that a file of `folder` has of the beginning of a request's prompt: 0, also where there is none, or -1
// and an error, such as a file that is damaged (the prompt is computed then). `request_json` is as for `flashflood_session_send`.
//
// # Safety
// `session` is null or of an open engine; strings are null or end with a zero; `error` is null or can be written to.
int flashflood_session_restore(flashflood_session *session,
                               const char *folder,
                               const char *request_json,
                               char **error);

// Ends a session; an answer that is being made ends at its next token. NULL is nothing.
//
// # Safety
// `session` is null or of an open engine.
void flashflood_session_close(flashflood_session *session);

// Runs every kernel against its CPU twin on this machine's GPU, and the small model from end to end: what a bug report
// carries, as JSON. `options_json` is NULL or `{"shapes": "auto|model|small", "kernels": ["matvec"]}`. Its `mismatches` are
// empty where all is well. NULL and an error where nothing can be checked. To be freed with `flashflood_string_free`.
//
// # Safety
// `options_json` is null or ends with a zero; `error` is null or can be written to.
char *flashflood_check(const char *options_json,
                       char **error);

// Frees a string that this library gave. NULL is nothing.
//
// # Safety
// `string` is null or was given by a function of this library, and is freed once.
void flashflood_string_free(char *string);

#ifdef __cplusplus
}  // extern "C"
#endif  // __cplusplus

#endif  /* FLASHFLOOD_H */
