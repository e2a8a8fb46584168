/* Threads that walk through the steps of one job together. */
#ifndef CGRU_TEAM_H
#define CGRU_TEAM_H
#include "platform.h"

/* A team: the threads that met at the start of a job and wait for each other during it. Those who come after it closed
 * do not take part. Counters only grow; clear the team before the job. Each member counts its meetings in a cache line of
 * its own, so that a meeting costs every member one look at the others' lines and nobody fights for one. */
#define CGRU_MOST_THREADS 64
typedef struct { int arrived, size; struct { int count; char line[60]; } met[CGRU_MOST_THREADS]; } cgru_team;
enum { CGRU_CLOSED = 1 << 20 };

static inline void cgru_clear(cgru_team *team, int wanted) {
    team->arrived = team->size = 0;
    for (int i = 0; i < wanted; i++) team->met[i].count = 0;
}

/* This thread's number in the team, or -1 if it came late. The first waits for the others, for `patience` turns. */
static inline int cgru_join(cgru_team *team, int wanted, int patience) {
    int id = CGRU_ADD(team->arrived, 1);
    if (id >= CGRU_CLOSED) return -1;
    if (id == 0) {
        for (int spun = 0; CGRU_LOAD(team->arrived) < wanted && spun < patience; spun++) cgru_pause(0);
        CGRU_STORE(team->size, CGRU_ADD(team->arrived, CGRU_CLOSED));
    }
    for (int spun = 0; CGRU_LOAD(team->size) == 0; spun++) cgru_pause(spun);
    return id;
}

/* A member as itself sees it; `turn` counts its meetings. */
typedef struct { cgru_team *team; int id, turn; } cgru_member;

/* A meeting in two halves: what is done between them need not wait for the others. */
static inline void cgru_arrive(cgru_member *me) { CGRU_RELEASE(me->team->met[me->id].count, ++me->turn); }

/* Return when the whole team has arrived as often as this member. */
static inline void cgru_await(const cgru_member *me) {
    for (int other = 0, size = me->team->size; other < size; other++)
        for (int spun = -CGRU_EAGER; CGRU_ACQUIRE(me->team->met[other].count) < me->turn; spun++)
            if (spun >= 0) cgru_pause(spun);
}

#endif
