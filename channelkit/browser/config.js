// A client's own times, in seconds, and sizes, in bytes; what both ends must agree on comes with the server's hello.
export const CONFIG = Object.freeze({
  wait: 25, // of one poll, once there was a hello
  helloTimeout: 5, // a stream that shows no hello is behind a buffering proxy: poll instead
  openTimeout: 10, // for a WebSocket to open, or a session to be made
  postTimeout: 30, // an answer that has not come by then will not
  pollMargin: 10, // a poll's answer may come that much after its wait
  pingTimeout: 10, // silence beyond hello's ping
  ackDelay: 1, // the longest an acknowledgement waits for company
  steady: 30, // attached that long: the next failure counts as the first
  batchBytes: 1 << 20, // of one POST, or hello's `max` if that is less; a larger message goes alone
});

/** @typedef {typeof CONFIG} Config */
