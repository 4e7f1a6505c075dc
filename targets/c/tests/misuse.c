/* What the library promises of misuse and of other threads. Exits with the line of the first promise that is broken. */
#include <pthread.h>
#include <stdatomic.h>
#include <stdio.h>
#include <stdlib.h>
#include <string.h>
#include <unistd.h>

#include "flashflood.h"

#define CHECK(is_right)                                                      \
    do {                                                                     \
        if (!(is_right)) {                                                   \
            fprintf(stderr, "line %d: not so: %s\n", __LINE__, #is_right);   \
            exit(EXIT_FAILURE);                                              \
        }                                                                    \
    } while (0)

/* The call must fail with an error that says `words`. */
#define REFUSED(call, words)                                                 \
    do {                                                                     \
        error = NULL;                                                        \
        CHECK(call);                                                         \
        CHECK(error != NULL);                                                \
        if (strstr(error, words) == NULL) fprintf(stderr, "%s\n", error);    \
        CHECK(strstr(error, words) != NULL);                                 \
        flashflood_string_free(error);                                       \
        error = NULL;                                                        \
    } while (0)

static const char *QUESTION =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"What is the capital of Peru?\"}], \"temperature\": 0}";
/* An answer that is as long as the context: bound to be a number with very many digits. */
static const char *LONG_ANSWER =
    "{\"messages\": [{\"role\": \"user\", \"content\": \"Count.\"}], \"temperature\": 0, \"response_format\": {\"type\": "
    "\"json_schema\", \"json_schema\": {\"schema\": {\"type\": \"string\", \"pattern\": \"^x{2000}$\"}}}}";

/* Schemas that may overflow a stack, or take every core for good. */
static char *bomb(int kind) {
    static char request[1 << 20];
    char *end = request;
    end += sprintf(end, "{\"messages\": [{\"role\": \"user\", \"content\": \"hi\"}], \"max_tokens\": 5, \"response_format\": "
                        "{\"type\": \"json_schema\", \"json_schema\": {\"schema\": ");
    if (kind == 0) { /* a chain */
        end += sprintf(end, "{\"$ref\": \"#/$defs/d0\", \"$defs\": {");
        for (int i = 0; i < 400; i++)
            end += sprintf(end, "\"d%d\": {\"type\": \"array\", \"items\": {\"$ref\": \"#/$defs/d%d\"}}, ", i, i + 1);
        end += sprintf(end, "\"d400\": {\"type\": \"integer\"}}}");
    } else if (kind == 1) { /* patterns that hold at once */
        end += sprintf(end, "{\"type\": \"string\", \"allOf\": [{}");
        for (int i = 0; i < 200; i++) end += sprintf(end, ", {\"pattern\": \"^.*a%d.*$\"}", i);
        end += sprintf(end, "]}");
    } else { /* an object of many members */
        end += sprintf(end, "{\"type\": \"object\", \"required\": [\"p\"");
        for (int i = 0; i < 8000; i++) end += sprintf(end, ", \"p%d\"", i);
        end += sprintf(end, "]}");
    }
    sprintf(end, "}}}");
    return request;
}

struct told {
    flashflood_session *session, *other;
    atomic_int texts, suspended, resumed, done, cancelled;
    int closes, nests;
};

static int is_type(const char *json, const char *type) {
    char begin[64];
    snprintf(begin, sizeof begin, "{\"type\":\"%s\"", type);
    return strncmp(json, begin, strlen(begin)) == 0;
}

static void on_event(void *context, const char *json) {
    struct told *told = context;
    if (is_type(json, "text")) told->texts++;
    if (is_type(json, "suspended")) told->suspended++;
    if (is_type(json, "resumed")) told->resumed++;
    if (is_type(json, "done")) told->done++;
    if (is_type(json, "done") && strstr(json, "\"finish\":\"cancelled\"") != NULL) told->cancelled++;
    if (is_type(json, "text") && told->nests) {
        char *error = NULL;
        /* nothing that waits for the engine, whichever session it is for */
        REFUSED(flashflood_session_send(told->session, QUESTION, NULL, NULL, &error) != 0, "a callback may");
        REFUSED(flashflood_session_send(told->other, QUESTION, NULL, NULL, &error) != 0, "a callback may");
        REFUSED(flashflood_session_save(told->other, "states", &error) != 0, "a callback may");
        told->nests = 0;
        flashflood_session_cancel(told->session);
    }
    if (is_type(json, "text") && told->closes) flashflood_session_close(told->session);
}

static void *answer_long(void *context) {
    struct told *told = context;
    char *error = NULL;
    int status = flashflood_session_send(told->session, LONG_ANSWER, on_event, told, &error);
    if (status != 0) fprintf(stderr, "%s\n", error);
    flashflood_string_free(error);
    return (void *)(long)status;
}

static void wait_for(atomic_int *count, int least) {
    for (int i = 0; i < 60000 && *count < least; i++) usleep(1000);
    CHECK(*count >= least);
}

int main(int count, char **arguments) {
    char *error = NULL;
    pthread_t thread;
    void *status;
    CHECK(count == 2);
    CHECK(strlen(flashflood_version()) > 4);

    /* nothing where something must be */
    REFUSED(flashflood_engine_open("{\"device\": \"tpu\"}", &error) == NULL, "expected one of auto, gpu, cpu");
    REFUSED(flashflood_engine_open("{\"model\": \"/no/such/model\"}", &error) == NULL, "/no/such/model");
    REFUSED(flashflood_engine_open("{", &error) == NULL, "options_json");
    REFUSED(flashflood_engine_open("\xff", &error) == NULL, "not UTF-8");
    CHECK(flashflood_engine_open("{", NULL) == NULL);
    REFUSED(flashflood_engine_describe(NULL, &error) == NULL, "engine is NULL");
    REFUSED(flashflood_session_new(NULL, &error) == NULL, "engine is NULL");
    REFUSED(flashflood_session_send(NULL, QUESTION, NULL, NULL, &error) != 0, "session is NULL");
    flashflood_session_cancel(NULL);
    flashflood_session_suspend(NULL);
    flashflood_session_resume(NULL);
    flashflood_session_close(NULL);
    flashflood_engine_close(NULL);
    flashflood_string_free(NULL);

    char *plan = flashflood_memory_plan("{\"device\": \"cpu\"}", &error);
    CHECK(plan != NULL && strstr(plan, "\"slots\":") != NULL);
    flashflood_string_free(plan);

    flashflood_engine *engine = flashflood_engine_open("{\"device\": \"cpu\", \"context\": 1024}", &error);
    CHECK(engine != NULL);
    char *description = flashflood_engine_describe(engine, &error);
    CHECK(description != NULL && strstr(description, "\"context\":1024") != NULL);
    flashflood_string_free(description);

    flashflood_session *session = flashflood_session_new(engine, &error);
    flashflood_session *other = flashflood_session_new(engine, &error);
    CHECK(session != NULL && other != NULL);
    REFUSED(flashflood_session_send(session, NULL, NULL, NULL, &error) != 0, "request_json is NULL");
    REFUSED(flashflood_session_send(session, "{}", NULL, NULL, &error) != 0, "messages");
    REFUSED(flashflood_session_send(session, "{\"messages\": []}", NULL, NULL, &error) != 0, "no messages");
    CHECK(flashflood_session_send(session, "[", NULL, NULL, NULL) != 0);
    for (int kind = 0; kind < 3; kind++) {
        REFUSED(flashflood_session_send(session, bomb(kind), NULL, NULL, &error) != 0, "the grammar cannot be used");
        REFUSED(flashflood_session_restore(session, arguments[1], bomb(kind), &error) != 0, "the grammar cannot be used");
    }
    /* nobody listens, and nobody wants the error */
    CHECK(flashflood_session_send(session, QUESTION, NULL, NULL, NULL) == 0);

    /* a callback that sends on its own session, and cancels it */
    struct told nested = {.session = session, .other = other, .nests = 1};
    CHECK(flashflood_session_send(session, LONG_ANSWER, on_event, &nested, &error) == 0);
    CHECK(nested.cancelled == 1 && nested.done == 1);

    /* another thread: sends on a session that answers, suspends, resumes, cancels */
    struct told told = {.session = session};
    CHECK(pthread_create(&thread, NULL, answer_long, &told) == 0);
    wait_for(&told.texts, 1);
    REFUSED(flashflood_session_send(session, QUESTION, NULL, NULL, &error) != 0, "answering already");
    flashflood_session_suspend(session);
    wait_for(&told.suspended, 1);
    int before = told.texts;
    usleep(50000);
    CHECK(told.texts == before);
    flashflood_session_resume(session);
    wait_for(&told.resumed, 1);
    wait_for(&told.texts, before + 1);
    flashflood_session_cancel(session);
    CHECK(pthread_join(thread, &status) == 0 && status == NULL);
    CHECK(told.cancelled == 1);

    /* two sessions at a time: one answer after the other */
    struct told first = {.session = session}, second = {.session = other};
    CHECK(pthread_create(&thread, NULL, answer_long, &first) == 0);
    wait_for(&first.texts, 1);
    flashflood_session_cancel(session);
    CHECK(flashflood_session_send(other, QUESTION, on_event, &second, &error) == 0);
    CHECK(second.done == 1 && second.texts > 0);
    CHECK(pthread_join(thread, &status) == 0 && status == NULL);

    /* a session that waits for a suspended one, and is cancelled before its turn */
    struct told holds = {.session = session}, waits = {.session = other};
    pthread_t waiting;
    CHECK(pthread_create(&thread, NULL, answer_long, &holds) == 0);
    wait_for(&holds.texts, 1);
    flashflood_session_suspend(session);
    wait_for(&holds.suspended, 1);
    CHECK(pthread_create(&waiting, NULL, answer_long, &waits) == 0);
    usleep(300000);
    flashflood_session_cancel(other);
    CHECK(pthread_join(waiting, &status) == 0 && status == NULL);
    CHECK(waits.cancelled == 1 && waits.texts == 0 && holds.done == 0);
    flashflood_session_cancel(session);
    flashflood_session_resume(session);
    CHECK(pthread_join(thread, &status) == 0 && status == NULL);
    CHECK(holds.cancelled == 1);

    /* state that is kept and found again, of the session that answered last */
    REFUSED(flashflood_session_save(other, arguments[1], &error) != 0, "another session has answered");
    CHECK(flashflood_session_send(other, QUESTION, NULL, NULL, &error) == 0);
    CHECK(flashflood_session_save(other, arguments[1], &error) == 0);
    CHECK(flashflood_session_restore(other, arguments[1], QUESTION, &error) == 0);
    REFUSED(flashflood_session_save(other, "/dev/null/x", &error) != 0, "/dev/null/x");

    /* a session that is closed while it answers, and used afterwards */
    struct told closed = {.session = session, .closes = 1};
    CHECK(flashflood_session_send(session, LONG_ANSWER, on_event, &closed, &error) == 0);
    CHECK(closed.cancelled == 1);
    REFUSED(flashflood_session_send(session, QUESTION, NULL, NULL, &error) != 0, "closed");
    flashflood_session_cancel(session);
    flashflood_session_close(session);

    /* an engine that is closed while it answers */
    struct told last = {.session = other};
    CHECK(pthread_create(&thread, NULL, answer_long, &last) == 0);
    wait_for(&last.texts, 1);
    flashflood_session_suspend(other);
    wait_for(&last.suspended, 1);
    flashflood_engine_close(engine);
    CHECK(pthread_join(thread, &status) == 0 && status == NULL);
    CHECK(last.cancelled == 1);
    printf("all promises hold\n");
    return EXIT_SUCCESS;
}
