// Runs in the browser's audio thread: hands the microphone's samples on, in pieces of 64 ms at 16 kHz.

const PIECE = 1024;

class Capture extends AudioWorkletProcessor {
  constructor() {
    super();
    this.piece = new Float32Array(PIECE);
    this.filled = 0;
    this.isOpen = true;
    this.port.onmessage = () => {
      this.port.postMessage(this.piece.slice(0, this.filled));
      this.port.postMessage("end");
      this.isOpen = false;
    };
  }

  process(inputs) {
    const channel = inputs[0][0]; // absent until the microphone delivers
    if (!channel || !this.isOpen) return this.isOpen;
    for (const sample of channel) {
      this.piece[this.filled++] = sample;
      if (this.filled === PIECE) {
        this.port.postMessage(this.piece);
        this.piece = new Float32Array(PIECE);
        this.filled = 0;
      }
    }
    return true;
  }
}

registerProcessor("capture", Capture);
