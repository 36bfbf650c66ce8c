// A browser starts no worker from file://. There the theme's search runs in a hidden frame, with a worker's functions.
if (location.protocol === "file:") {
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = document.createElement("iframe")
      frame.hidden = true
      document.body.append(frame)
      const inside = frame.contentWindow
      const load = address => new Promise((done, failed) => {
        const script = inside.document.createElement("script")
        Object.assign(script, { src: address, onload: done, onerror: failed })
        inside.document.head.append(script)
      })
      inside.importScripts = (...addresses) =>
        addresses.reduce((before, address) => before.then(() => load(address)), Promise.resolve())
      inside.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
      this.started = load(new URL(url, location.href).href)
      this.send = data => inside.dispatchEvent(new MessageEvent("message", { data }))
    }

    postMessage(data) {
      this.started.then(() => this.send(data))
    }

    terminate() {}
  }
}
