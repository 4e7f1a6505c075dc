// Between Flashflood.kt and the C library. Texts are arrays of bytes, which end with a zero here.
#include <jni.h>
#include <stdint.h>
#include <stdlib.h>
#include <string.h>

#include "flashflood.h"

#define NATIVE(type, name) JNIEXPORT type JNICALL Java_org_flashflood_Native_##name

// A copy of a text, or NULL for none. Where there is no memory for it an exception is pending.
static char *text_of(JNIEnv *env, jbyteArray bytes) {
    if (!bytes) return NULL;
    jsize length = (*env)->GetArrayLength(env, bytes);
    char *text = malloc((size_t)length + 1);
    if (!text) {
        jclass out_of_memory = (*env)->FindClass(env, "java/lang/OutOfMemoryError");
        if (out_of_memory) (*env)->ThrowNew(env, out_of_memory, "a text for flashflood");
        return NULL;
    }
    (*env)->GetByteArrayRegion(env, bytes, 0, length, (jbyte *)text);
    text[length] = 0;
    return text;
}

// NULL where an exception is pending.
static jbyteArray bytes_of(JNIEnv *env, const char *text) {
    jsize length = (jsize)strlen(text);
    jbyteArray bytes = (*env)->NewByteArray(env, length);
    if (bytes) (*env)->SetByteArrayRegion(env, bytes, 0, length, (const jbyte *)text);
    return bytes;
}

// Throws what the library said, and frees it.
static void raise(JNIEnv *env, char *error) {
    if (!(*env)->ExceptionCheck(env)) {
        jclass class = (*env)->FindClass(env, "org/flashflood/FlashfloodException");
        jmethodID make = class ? (*env)->GetMethodID(env, class, "<init>", "([B)V") : NULL;
        jbyteArray message = make ? bytes_of(env, error ? error : "no reason was given") : NULL;
        jobject thrown = message ? (*env)->NewObject(env, class, make, message) : NULL;
        if (thrown) (*env)->Throw(env, thrown);
    }
    flashflood_string_free(error);
}

// A text that the library made, or an exception.
static jbyteArray given(JNIEnv *env, char *text, char *error) {
    if (!text) {
        raise(env, error);
        return NULL;
    }
    jbyteArray bytes = bytes_of(env, text);
    flashflood_string_free(text);
    return bytes;
}

static flashflood_engine *engine_of(jlong handle) { return (flashflood_engine *)(intptr_t)handle; }
static flashflood_session *session_of(jlong handle) { return (flashflood_session *)(intptr_t)handle; }

NATIVE(jbyteArray, version)(JNIEnv *env, jobject this) { return bytes_of(env, flashflood_version()); }

NATIVE(jbyteArray, memoryPlan)(JNIEnv *env, jobject this, jbyteArray options) {
    char *error = NULL, *text = text_of(env, options);
    if ((*env)->ExceptionCheck(env)) return NULL;
    jbyteArray plan = given(env, flashflood_memory_plan(text, &error), error);
    free(text);
    return plan;
}

NATIVE(jlong, open)(JNIEnv *env, jobject this, jbyteArray options) {
    char *error = NULL, *text = text_of(env, options);
    if ((*env)->ExceptionCheck(env)) return 0;
    flashflood_engine *engine = flashflood_engine_open(text, &error);
    free(text);
    if (!engine) raise(env, error);
    return (jlong)(intptr_t)engine;
}

NATIVE(jbyteArray, describe)(JNIEnv *env, jobject this, jlong engine) {
    char *error = NULL, *text = flashflood_engine_describe(engine_of(engine), &error);
    return given(env, text, error);
}

NATIVE(void, close)(JNIEnv *env, jobject this, jlong engine) { flashflood_engine_close(engine_of(engine)); }

NATIVE(jlong, newSession)(JNIEnv *env, jobject this, jlong engine) {
    char *error = NULL;
    flashflood_session *session = flashflood_session_new(engine_of(engine), &error);
    if (!session) raise(env, error);
    return (jlong)(intptr_t)session;
}

// What `told` needs.
struct listening {
    JNIEnv *env;
    jobject listener;
    jclass native;
    jmethodID tell;
    flashflood_session *session;
};

// Called on the thread of `send`, so that its environment is the right one.
static void told(void *context, const char *event) {
    struct listening *to = context;
    JNIEnv *env = to->env;
    // after an exception nothing may be called until it has been thrown
    if ((*env)->ExceptionCheck(env)) return;
    jbyteArray bytes = bytes_of(env, event);
    if (bytes) {
        (*env)->CallStaticVoidMethod(env, to->native, to->tell, to->listener, bytes);
        // an answer has more events than there is room for references
        (*env)->DeleteLocalRef(env, bytes);
    }
    if ((*env)->ExceptionCheck(env)) flashflood_session_cancel(to->session);
}

NATIVE(void, send)(JNIEnv *env, jobject this, jlong session, jbyteArray request, jobject listener) {
    struct listening to = {env, listener, (*env)->GetObjectClass(env, this), NULL, session_of(session)};
    to.tell = (*env)->GetStaticMethodID(env, to.native, "tell", "(Lorg/flashflood/Listener;[B)V");
    char *error = NULL, *text = to.tell ? text_of(env, request) : NULL;
    if ((*env)->ExceptionCheck(env)) return;
    if (flashflood_session_send(to.session, text, listener ? told : NULL, &to, &error)) raise(env, error);
    free(text);
}

NATIVE(void, cancel)(JNIEnv *env, jobject this, jlong session) { flashflood_session_cancel(session_of(session)); }
NATIVE(void, suspend)(JNIEnv *env, jobject this, jlong session) { flashflood_session_suspend(session_of(session)); }
NATIVE(void, resume)(JNIEnv *env, jobject this, jlong session) { flashflood_session_resume(session_of(session)); }

NATIVE(void, save)(JNIEnv *env, jobject this, jlong session, jbyteArray folder) {
    char *error = NULL, *text = text_of(env, folder);
    if ((*env)->ExceptionCheck(env)) return;
    if (flashflood_session_save(session_of(session), text, &error)) raise(env, error);
    free(text);
}

NATIVE(void, restore)(JNIEnv *env, jobject this, jlong session, jbyteArray folder, jbyteArray request) {
    char *error = NULL, *where = text_of(env, folder);
    if ((*env)->ExceptionCheck(env)) return;
    char *what = text_of(env, request);
    if (!(*env)->ExceptionCheck(env) && flashflood_session_restore(session_of(session), where, what, &error)) raise(env, error);
    free(where);
    free(what);
}

NATIVE(void, closeSession)(JNIEnv *env, jobject this, jlong session) { flashflood_session_close(session_of(session)); }
