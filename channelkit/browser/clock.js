// Seconds that go on while the machine sleeps.  Some engines stop performance.now() then; the wall clock goes on, but jumps.

const JUMP = 2; // seconds by which the wall clock may run ahead before it counts as sleep

/** A monotonic clock. @param {() => number} monotonic milliseconds @param {() => number} wall milliseconds */
export function makeClock(monotonic = () => performance.now(), wall = () => Date.now()) {
  let [steps, dates, time] = [monotonic(), wall(), 0];
  return () => {
    const [step, date] = [monotonic(), wall()];
    const [passed, dated] = [(step - steps) / 1000, (date - dates) / 1000];
    [steps, dates] = [step, date];
    time += dated > passed + JUMP ? dated : Math.max(0, passed);
    return time;
  };
}
