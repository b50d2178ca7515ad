// A stream of the emulated driver, as the stand-in of NCCL sees it.
#pragma once

typedef struct Stream Stream;
struct Stream {
    // Has a thread of the stream do something after everything before it, and returns at once; not 0 if that cannot be.
    int (*enqueue)(Stream *stream, void (*run)(void *), void *argument);
};
