/* A question and its answer: `chat [MODEL]`. Without MODEL it is the small model inside the library.
 *
 *     cc chat.c -I.. -L../../../target/release -lflashflood_c -o chat
 */
#include <stdio.h>
#include <stdlib.h>
#include <string.h>

#include "flashflood.h"

/* Prints the text of {"type":"text","text":".."}: a real program has a JSON parser. */
static void on_event(void *context, const char *event_json) {
    const char *text = strstr(event_json, "\"text\":\"");
    int *answers = context;
    if (strncmp(event_json, "{\"type\":\"text\"", 14) == 0 && text != NULL) {
        text += strlen("\"text\":\"");
        fwrite(text, 1, strlen(text) - strlen("\"}"), stdout);
        fflush(stdout);
    } else if (strncmp(event_json, "{\"type\":\"done\"", 14) == 0) {
        *answers += 1;
        printf("\n");
    }
}

static int fail(const char *what, char *error) {
    fprintf(stderr, "error: %s: %s\n", what, error != NULL ? error : "?");
    flashflood_string_free(error);
    return EXIT_FAILURE;
}

int main(int count, char **arguments) {
    char options[4096];
    char *error = NULL;
    int answers = 0;
    if (count > 1) {
        snprintf(options, sizeof options, "{\"model\": \"%s\"}", arguments[1]);
    } else {
        snprintf(options, sizeof options, "{\"device\": \"cpu\"}");
    }
    flashflood_engine *engine = flashflood_engine_open(options, &error);
    if (engine == NULL) return fail("open", error);
    flashflood_session *session = flashflood_session_new(engine, &error);
    if (session == NULL) return fail("session", error);

    const char *request =
        "{\"messages\": [{\"role\": \"user\", \"content\": \"What is the capital of Peru?\"}], \"temperature\": 0}";
    if (flashflood_session_send(session, request, on_event, &answers, &error) != 0) return fail("send", error);

    flashflood_session_close(session);
    flashflood_engine_close(engine);
    return answers == 1 ? EXIT_SUCCESS : EXIT_FAILURE;
}
