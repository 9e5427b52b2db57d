// Search from the disk: browsers start no Worker from file://, so that the theme's runs in a frame of the page.
if (location.protocol === "file:")
  window.Worker = class extends EventTarget {
    constructor(url) {
      super()
      const frame = Object.assign(document.createElement("iframe"), { hidden: true })
      frame.srcdoc = `<script src="${new URL(url, location)}"></script>`
      this.scope = new Promise(loaded => {
        frame.onload = () => {
          const scope = frame.contentWindow
          scope.postMessage = data => this.dispatchEvent(new MessageEvent("message", { data }))
          loaded(scope)
        }
      })
      document.body.append(frame)
    }
    postMessage(data) {
      this.scope.then(scope => scope.dispatchEvent(new MessageEvent("message", { data })))
    }
  }
